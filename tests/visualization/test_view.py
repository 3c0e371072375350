"""What is drawn, by value, on a tiny pair of detectors."""

import itertools

import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from torch.testing import assert_close

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.functional.boxes import cxcywh_to_xyxy
from mmdet_detrdistill.visualization import PairView, Predictions, draw_all, view_pair
from mmdet_detrdistill.visualization.draw import draw_masks
from mmdet_detrdistill.visualization.view import found_objects
from tests.reference import pair_cost, query_quality_reference
from tests.reference_terms import clamped_to_image
from tests.tiny_detectors import sample_of, tiny

BOXES, LABELS = [[10, 12, 60, 50], [30, 20, 90, 70]], [0, 2]
LOSSES = dict(
    loss_logits_kd=dict(type='LogitsKDLoss'),
    loss_feature_kd=dict(type='FeatureKDLoss'),
    loss_assign_kd=dict(type='AssignKDLoss'),
)


def pair_of(student='deformable', teacher='deformable'):
    return DETRDistill(
        architecture=tiny(student, seed=0),
        teacher=tiny(teacher, seed=1, num_layers=3),
        distiller=dict(type='DETRDistiller', distill_losses=LOSSES),
    ).train()


def image(objects=True):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (3, 96, 128), generator=generator, dtype=torch.uint8)
    given = (BOXES, LABELS) if objects else ([], [])
    return dict(inputs=inputs, data_samples=sample_of((96, 128), (96, 128), *given))


@pytest.fixture(scope='module')
def model():
    return pair_of()


@pytest.fixture(scope='module')
def view(model):
    return view_pair(model, image())


@pytest.fixture(scope='module')
def passes(model):
    """Both passes as the adapters make them, and the sample."""
    data = image()
    batch = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
    batch = model.data_preprocessor(batch)
    model.eval()
    sides = (model.student_adapter, model.teacher_adapter)
    with torch.no_grad():
        found = [side.forward_pass(batch['inputs'], batch['data_samples']) for side in sides]
    model.train()
    return (*found, batch['data_samples'])


def test_the_teacher_sees_its_own_normalisation():
    """Drawn as of images (x - 8) / 2, while the student's are (x - 0) / 1."""
    teacher = tiny('deformable', seed=1)
    teacher.data_preprocessor = DetDataPreprocessor(mean=[8] * 3, std=[2] * 3)
    pair = DETRDistill(
        architecture=tiny('deformable', seed=0),
        teacher=teacher,
        distiller=dict(type='DETRDistiller', distill_losses=LOSSES),
        data_preprocessor=DetDataPreprocessor(mean=[0] * 3, std=[1] * 3),
    )
    data = image()
    seen = (data['inputs'].float()[None] - 8) / 2
    with torch.no_grad():
        expected = pair.teacher_adapter.forward_pass(seen, [data['data_samples']]).outputs
    scores = expected.logits[-1, 0].sigmoid().max(-1).values
    assert_close(view_pair(pair, image()).teacher.scores, scores)


def test_masks_equal_materialised_ones(model, view, passes):
    """Form of the paper: sum_i q_i (F . Q_i)^2 / M, of the encoder's maps, query by query."""
    _, teacher, samples = passes
    outputs = teacher.outputs
    assignment = model.teacher_adapter.assign(outputs, samples)
    size = torch.tensor([128.0, 96.0, 128.0, 96.0])
    corners = torch.tensor(BOXES, dtype=torch.float32) / size
    centres = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
    quality = query_quality_reference(
        outputs.logits.sigmoid(), outputs.boxes, [centres], assignment
    ).float()
    assert len(view.masks['paper']) == 3 and view.strides == [8, 16, 32, 64]
    for stage in range(3):
        for level, features in enumerate(teacher.state.memory_maps()):
            expected = torch.zeros(features.shape[-2:])
            for query, weight in zip(outputs.hidden_states[stage, 0], quality[stage, 0]):
                expected += weight * (features[0] * query[:, None, None]).sum(0) ** 2
            assert_close(view.masks['paper'][stage][level], expected / len(quality[stage, 0]))


def test_masks_of_the_released_form(view, passes):
    """m = sum_i q_i cos_i, at least 0.01, over its maximum; squared; of the neck's maps."""
    _, teacher, _ = passes
    outputs = teacher.outputs
    size = torch.tensor([128.0, 96.0, 128.0, 96.0])
    corners = torch.tensor(BOXES, dtype=torch.float32) / size
    centres = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
    quality = query_quality_reference(
        outputs.logits.sigmoid(), outputs.boxes, [centres], None, quality='max_iou', topk=100
    ).float()
    features = teacher.state.features[0][0]
    for stage in range(3):
        total = torch.zeros(features.shape[-2:])
        for query, weight in zip(outputs.hidden_states[stage, 0], quality[stage, 0]):
            cosine = torch.cosine_similarity(features, query[:, None, None], dim=0)
            total += weight * cosine
        total = total.clamp(min=0.01)
        assert_close(view.masks['released'][stage][0], (total / total.max()) ** 2)


def test_lines_connect_the_cheapest_matches(model, view, passes):
    """Two teacher queries with objects: of all pairs of student queries the one of least cost."""
    student, teacher, samples = passes
    assignment = model.teacher_adapter.assign(teacher.outputs, samples)[-1, 0]
    positive = (assignment >= 0).nonzero().flatten().tolist()
    assert [match[0] for match in view.matches] == positive and len(positive) == 2
    own, other = student.outputs, teacher.outputs
    cost = {
        (i, s): float(
            pair_cost(
                own.logits[-1, 0, s],
                own.boxes[-1, 0, s],
                other.logits[-1, 0, i].sigmoid(),
                clamped_to_image(other.boxes[-1, 0, i]),
                'sigmoid',
                (1.0, 5.0, 2.0),
            )
        )
        for i in positive
        for s in range(12)
    }
    best = min(
        itertools.permutations(range(12), 2),
        key=lambda pick: sum(cost[i, s] for i, s in zip(positive, pick)),
    )
    assert tuple(match[1] for match in view.matches) == best
    for teacher_query, student_query, value in view.matches:
        assert value == pytest.approx(cost[teacher_query, student_query], abs=1e-3)
    teacher_query, student_query, _ = view.matches[0]
    found = view.teacher.centres()[teacher_query], view.student.centres()[student_query]
    ends = (other.boxes[-1, 0, positive[0]], own.boxes[-1, 0, best[0]])
    for centre, box in zip(found, ends):
        corners = cxcywh_to_xyxy(box).clamp(0, 1)
        assert_close(centre, (corners[:2] + corners[2:]) / 2)


def test_references_are_the_teacher_s(view, passes):
    """Deformable DETR: its own reference points; a triangle for each query with an object."""
    own = passes[1].state.decoder_inputs['reference_points'][0]
    assert_close(view.references, own[:, :2])
    assert int(view.assigned.sum()) == 2


def test_predictions_and_image(view, passes):
    outputs = passes[0].outputs
    scores, labels = outputs.logits[-1, 0].sigmoid().max(-1)
    assert_close(view.student.scores, scores)
    assert torch.equal(view.student.labels, labels)
    assert_close(view.student.boxes, cxcywh_to_xyxy(outputs.boxes[-1, 0]).clamp(0, 1))
    assert_close(view.objects.boxes[0], torch.tensor([10 / 128, 12 / 96, 60 / 128, 50 / 96]))
    assert torch.equal(torch.from_numpy(view.image)[5, 7], image()['inputs'][:, 5, 7].flip(0))


def test_the_training_is_not_disturbed(model):
    torch.manual_seed(0)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    draw_all(view_pair(model, image()))
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_without_ground_truth_sure_predictions_stand_in(model):
    found = view_pair(model, image(objects=False))
    assert len(found.objects.boxes) == 0
    assert torch.equal(found.assigned, found.teacher.scores >= 0.3)
    assert len(found.matches) == min(12, int(found.assigned.sum()))
    assert {'boxes', 'matches', 'masks_paper'} <= set(draw_all(found))


@pytest.mark.parametrize(
    'student, teacher', [('detr', 'detr'), ('conditional', 'conditional'), ('dab', 'deformable')]
)
def test_other_families(student, teacher):
    """DETR has no reference points; anchors (DAB) sit at the teacher's boxes."""
    found = view_pair(pair_of(student, teacher), image())
    if student == 'detr':
        assert found.references is None
        assert 'references' not in draw_all(found)
    else:
        assert found.references.shape == (12, 2)
        assert found.references.min() >= 0 and found.references.max() <= 1
    if student == 'dab':
        centres = (found.teacher.boxes[:, :2] + found.teacher.boxes[:, 2:]) / 2
        assert_close(found.references, centres, atol=2e-3, rtol=0)
    assert 'boxes' in draw_all(found)


def predictions(boxes, labels, scores):
    return Predictions(torch.tensor(boxes), torch.tensor(labels), torch.tensor(scores))


def test_found_objects_by_hand():
    """Found; of another class; too far off; too unsure."""
    objects = predictions(
        [[0.1 * i, 0.0, 0.1 * i + 0.1, 0.1] for i in range(4)], [0] * 4, [1.0] * 4
    )
    given = predictions(
        [[0.0, 0.0, 0.1, 0.09], [0.1, 0.0, 0.2, 0.1], [0.26, 0.0, 0.36, 0.1], [0.3, 0.0, 0.4, 0.1]],
        [0, 1, 0, 0],
        [0.9, 0.9, 0.9, 0.2],
    )
    assert found_objects(given, objects).tolist() == [True, False, False, False]


def test_mask_is_drawn_where_it_is():
    """One of four pixels counts, the upper right one: it is yellow, the others are not."""
    import numpy as np

    nothing = predictions([[0.0, 0.0, 0.1, 0.1]], [0], [0.0])
    mask = torch.tensor([[0.0, 3.0], [0.0, 0.0]])
    drawn = draw_masks(
        PairView(
            image=np.zeros((64, 64, 3), np.uint8),
            masks=dict(paper=[[mask]]),
            strides=[32],
            student=nothing,
            teacher=nothing,
            objects=nothing,
            matches=[],
            references=None,
            assigned=torch.zeros(1, dtype=torch.bool),
        )
    )
    drawn = drawn.astype(int)[:, : int(drawn.shape[1] * 0.6)]
    yellow = (drawn[..., 0] > 120) & (drawn[..., 1] > 110) & (drawn[..., 2] < 60)
    dark = (drawn.sum(-1) < 200) & (drawn[..., 2] > 30)
    assert yellow.sum() > 500 and dark.sum() > 2 * yellow.sum()
    (y, x), (rows, columns) = yellow.nonzero(), dark.nonzero()
    assert x.min() > columns.mean() - 2 and y.max() < rows.mean() + 2
