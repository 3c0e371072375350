"""Boxes that enter both decoders, and the one decoder pass of all rules."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from torch.testing import assert_close

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.detectors import build_adapter
from mmdet_detrdistill.losses.injection import GroundTruthBoxInjection, RandomBoxInjection
from mmdet_detrdistill.losses.injection.box_queries import box_queries
from tests.departing_detectors import WORDS
from tests.distillation.test_unequal import as_double, double_batch, without_dropout
from tests.reference_aligned import aligned_kd_reference
from tests.support_table import STUDENTS, TEACHERS, build_tiny
from tests.tiny_detectors import NUM_CLASSES, batch, tiny

OWN = dict(type='auto')
RANDOM = dict(type='RandomBoxInjection', num_queries=7)
OBJECT = dict(type='GroundTruthBoxInjection', num_queries=8)
ANCHORED = ['dab', 'deformable_two_stage', 'dino', 'ddq', 'rtdetr', 'sparse_rcnn']
#: of each anchored student, a teacher with anchors and of another family
TEACHER_OF = {
    'dab': 'dino',
    'deformable_two_stage': 'sparse_rcnn',
    'dino': 'grounding_dino',
    'ddq': 'rtdetr',
    'rtdetr': 'ddq',
    'sparse_rcnn': 'deformable_two_stage',
}


def distill(student, teacher, *rules, **more):
    losses = dict(loss_aligned_kd=dict(type='AlignedKDLoss', injection=list(rules)), **more)
    distiller = dict(type='DETRDistiller', distill_losses=losses)
    model = DETRDistill(student, teacher, distiller).train()
    if model.teacher_adapter.prompted:
        model.teacher_adapter.set_phrases(WORDS[:NUM_CLASSES])
    return model


def pair_of(model, images, samples):
    torch.manual_seed(0)
    teacher = model.teacher_pass(images, samples)
    return model._pair(model.student_adapter.forward_pass(images, samples), teacher, samples)


@pytest.fixture
def iteration():
    """Set the runner's iteration."""
    hub = MessageHub.get_current_instance()

    def at(number):
        hub.update_info('iter', number)

    yield at
    hub.runtime_info.pop('iter', None)


@pytest.fixture
def doubles():
    """MMDetection makes denoising queries in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize('student', STUDENTS)
def test_queries_of_a_set_do_not_see_another(doubles, student):
    """In float64 each set's predictions are those it gets alone; DDQ's NMS has float32 only."""
    detector, (images, samples) = build_tiny(student, seed=1).double(), double_batch()
    if student == 'ddq':
        torch.set_default_dtype(torch.float32)
        detector, (images, samples) = detector.float(), batch()
    elif getattr(detector, 'positional_encoding', None) is not None:
        detector.positional_encoding.register_forward_hook(lambda *call: call[-1].double())
    without_dropout(detector.train())
    adapter = build_adapter(detector)
    state = adapter.encode(images, samples)
    names = [n for n in ('query', 'query_pos', 'reference_points') if n in state.decoder_inputs]
    own = {n: state.decoder_inputs[n][:, -adapter.num_queries :].detach() for n in names}
    sets = [
        {n: value[:, first:last].flip(1) for n, value in own.items()}
        for first, last in ((0, 5), (3, 10), (10, 12))
    ]
    before = dict(vars(detector))
    found = adapter.decode_sets(state, sets)
    assert vars(detector) == before and [o.logits.shape[2] for o in found] == [5, 7, 2]
    for queries, outputs in zip(sets, found):
        alone = adapter.decode(state, queries)
        for name in ('logits', 'boxes', 'hidden_states'):
            assert_close(getattr(outputs, name), getattr(alone, name), rtol=1e-9, atol=1e-10)
    if student != 'ddq':  # of the last two stages: a set is not the joint one
        joint = adapter.decode(state, {n: torch.cat([s[n] for s in sets], 1) for n in names})
        assert (joint.logits[:, :, :5] - found[0].logits).abs().max() > 1e-6


def test_sets_stay_apart_under_activation_checkpointing():
    """Which replaces the `forward` of a layer by a call of that very layer."""
    detector, (images, samples) = tiny('deformable_two_stage', 1).eval(), batch()
    adapter = build_adapter(detector)
    state = adapter.encode(images, samples)
    sets = [box_queries(adapter, state, torch.rand(2, count, 4)) for count in (3, 5)]
    expected = adapter.decode(state, sets[0]).boxes
    for layer in detector.decoder.layers:
        layer.forward = partial(type(layer).forward, layer)
    assert_close(adapter.decode_sets(state, sets)[0].boxes, expected)


@pytest.mark.parametrize('student', ['dab', 'deformable_two_stage', 'dino', 'rtdetr'])
def test_one_pass_of_each_decoder_for_all_rules(student):
    model = distill(
        build_tiny(student, seed=1),
        build_tiny(student, seed=2),
        OWN,
        RANDOM,
        OBJECT,
        loss_assign_kd=dict(type='AssignKDLoss'),
    )
    calls = []
    for side in ('student', 'teacher'):
        decoder = getattr(model, side).decoder
        decoder.register_forward_hook(lambda *call, side=side: calls.append(side))
    model.loss(*batch())
    assert sorted(calls) == ['student'] * 2 + ['teacher'] * 2  # own queries, injected ones
    calls.clear()
    model.distiller.set_scale('loss_aligned_kd', 0)  # the teacher's boxes or queries stay
    model.loss(*batch())
    assert sorted(calls) == ['student'] * 2 + ['teacher']
    assert len(model.distiller.active_injections()) == 1


@pytest.mark.parametrize('student', ['dab', 'deformable_two_stage', 'dino'])
def test_terms_equal_reference(doubles, student):
    """In float64 the logged terms, from both decoders run by hand on the same boxes."""
    model = distill(tiny(student, 1), tiny(student, 2, num_layers=4), OWN, RANDOM, OBJECT)
    without_dropout(as_double(model))
    images, samples = double_batch()
    samples[0].gt_instances = samples[0].gt_instances[:0]
    torch.manual_seed(0)
    losses = model.loss(images, samples)
    pair = pair_of(model, images, samples)
    rules = {rule.prefix: rule for rule in model.distiller.injections.values() if rule.prefix}
    kinds = dict.fromkeys(('student_activation', 'teacher_activation'), 'sigmoid')
    for prefix, rule in rules.items():
        injected = rule(pair)
        own, other = (
            adapter.decode(forward.state, queries)
            for adapter, forward, queries in (
                (pair.student, pair.student_forward, injected.student),
                (pair.teacher, pair.teacher_forward, injected.teacher),
            )
        )
        mask = torch.ones(other.boxes.shape[:3], dtype=torch.bool)
        if prefix == 'object_':
            mask[:, 0] = False
        expected = aligned_kd_reference(
            own.logits, own.boxes, other.logits.detach(), other.boxes.detach(), None,
            teacher_mask=mask, by_confidence=prefix == 'random_', **kinds,
        )  # fmt: skip
        for name, value in expected.items():
            stem = 'aligned_kd' if name == 'entropy' else 'loss_aligned_kd'
            found = losses[f'{stem}.{prefix}{name}']
            assert_close(found, torch.as_tensor(value).to(found), rtol=1e-6, atol=1e-9)
    assert losses['loss_aligned_kd.neg_bbox'] > 0


def test_noise_by_hand(monkeypatch):
    """Objects in turn; each side moves by its draw, -1 to 1, times half the width or height."""
    model = distill(
        tiny('dab', 1),
        tiny('dab', 2),
        dict(type='GroundTruthBoxInjection', num_queries=5, box_noise_scale=0.4),
    )
    pair = pair_of(model, *batch(empty='one'))
    drawn = torch.tensor([[0.5, 0.5, 0.5, 0.5], [1, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.75]])
    drawn = drawn[[0, 1, 2, 0, 0]]
    monkeypatch.setattr(GroundTruthBoxInjection, 'draw', lambda self, like: drawn)
    (rule,) = model.distiller.injections.values()
    boxes, mask = rule.boxes(pair)
    assert mask.tolist() == [[False] * 5, [True] * 5]
    first, second, third = ([5, 5, 40, 80], [64, 10, 120, 60], [50, 40, 70, 90])
    expected = [
        first,
        [64 + 0.2 * 56, *second[1:]],
        [*third[:3], 90 + 0.5 * 0.2 * 50],
        first,
        second,
    ]
    scale = torch.tensor([128.0, 96.0, 128.0, 96.0])
    centre, size = boxes[1].split(2, -1)
    corners = torch.cat((centre - size / 2, centre + size / 2), -1) * scale
    assert_close(corners, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize('kind', [RandomBoxInjection, GroundTruthBoxInjection])
def test_draws_depend_on_seed_and_iteration_alone(iteration, kind):
    like, state = torch.zeros(1, dtype=torch.float64), torch.get_rng_state()
    numpy_state = np.random.get_state()[1].tolist()
    found = {}
    for seed, number in ((0, 3), (0, 4), (1, 3)):
        for _ in range(2):  # again, as after a resume
            iteration(number)
            torch.rand(1 + seed)
            torch.set_rng_state(state)
            found.setdefault((seed, number), []).append(kind(6, seed=seed).draw(like))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == numpy_state
    assert all(torch.equal(first, again) for first, again in found.values())
    values = torch.cat([first.flatten() for first, _ in found.values()])
    assert len(values.unique()) == 3 * 6 * 4
    assert values.min() >= 0 and values.max() < 1


def test_both_sides_get_the_same_boxes():
    model = distill(tiny('dab', 1), tiny('dab', 2), RANDOM, OBJECT)
    pair = pair_of(model, *batch())
    for rule in model.distiller.injections.values():
        student, teacher, _ = rule(pair)
        assert torch.equal(student['query_pos'], teacher['query_pos'])
        assert not teacher['query_pos'].requires_grad


@pytest.mark.parametrize('family', ANCHORED)
def test_equal_detectors_agree(family):
    """Without dropout, batch statistics and DDQ's training queries nothing is left to learn."""
    student = build_tiny(family, seed=1)
    model = distill(student, copy.deepcopy(student), RANDOM, OBJECT)
    model.eval()
    pair = pair_of(model, *batch())
    assert len(model.distiller.injections) == 2
    for name in model.distiller.injections:
        own, other = pair.injected_predictions(name)
        assert_close(own.logits, other.logits, rtol=1e-4, atol=1e-5)
        assert_close(own.boxes, other.boxes, rtol=1e-4, atol=1e-5)
    terms = model.distiller.pair_losses['loss_aligned_kd'](pair)
    for name in ('random_cls', 'object_cls'):
        assert terms[name].item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize('student', ANCHORED)
@pytest.mark.parametrize('same', [True, False])
def test_one_step_of_each_family_with_anchors(student, same):
    """With the teacher's own queries where they serve, an image without objects in the batch."""
    teacher = student if same else TEACHER_OF[student]
    model = distill(
        build_tiny(student, seed=1),
        build_tiny(teacher, seed=2, num_queries=15),
        OWN,
        RANDOM,
        OBJECT,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    losses = model.loss(*batch(empty='one'))
    terms = {name: value for name, value in losses.items() if 'aligned_kd' in name}
    for prefix in ('random_', 'object_'):
        for name in ('cls', 'bbox', 'giou'):
            assert terms[f'loss_aligned_kd.{prefix}{name}'] > 0
        assert not terms[f'aligned_kd.{prefix}entropy'].requires_grad
    total = sum(value for name, value in terms.items() if '_' in name.split('.')[1])
    total.backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    moved = [p.grad.abs().sum() for p in model.student.parameters() if p.grad is not None]
    assert sum(moved) > 0 and all(map(torch.isfinite, moved))
    optimizer.step()


@pytest.mark.parametrize(
    ('side', 'family'),
    [
        *(('student', family) for family in STUDENTS if family not in ANCHORED),
        *(
            ('teacher', family)
            for family in TEACHERS
            if family not in ANCHORED + ['grounding_dino']
        ),
    ],
)
def test_families_without_anchors_are_refused(side, family):
    detectors = build_tiny(family, seed=1), build_tiny('dino', seed=2)
    student, teacher = detectors if side == 'student' else detectors[::-1]
    reason = 'takes no other queries' if family == 'codetr' else 'have no anchor box'
    with pytest.raises(ValueError, match=f'RandomBoxInjection: {side}: .*{reason}.*Leave the rule'):
        distill(student, teacher, RANDOM)


def test_other_losses_and_values_are_refused():
    pair = tiny('dab', 1), tiny('dab', 2)
    with pytest.raises(ValueError, match='it serves loss_aligned_kd'):
        distill(*pair, RANDOM, loss_assign_kd=dict(type='AssignKDLoss', injection=RANDOM))
    with pytest.raises(ValueError, match="two injection rules have the prefix 'random_'"):
        distill(*pair, RANDOM, dict(RANDOM, num_queries=3))
    with pytest.raises(ValueError, match='num_queries must be a positive number, got 0'):
        distill(*pair, dict(RANDOM, num_queries=0))
    with pytest.raises(ValueError, match='seed must be a whole number >= 0, got -1'):
        distill(*pair, dict(RANDOM, seed=-1))
    with pytest.raises(ValueError, match='box_noise_scale must be >= 0'):
        distill(*pair, dict(OBJECT, box_noise_scale=-math.inf))


def test_teacher_under_its_own_autocast():
    """Its injected pass runs as its own pass does; predictions are float32 again."""
    model = distill(build_tiny('rtdetr', seed=1), build_tiny('rtdetr', seed=2), RANDOM, OBJECT)
    model.teacher_pass.dtype = torch.bfloat16
    losses = model.loss(*batch())
    assert losses['loss_aligned_kd.random_bbox'].dtype == torch.float32
    assert torch.isfinite(losses['loss_aligned_kd.object_cls'])
