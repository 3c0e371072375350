"""How the teacher is run: options, what is kept, what is asked of it."""

import copy
import shutil

import pytest
import torch
from torch.testing import assert_close

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.detectors import build_adapter
from mmdet_detrdistill.distillation.teacher import TeacherPass
from tests.tiny_detectors import batch, build, tiny, tiny_config

PAPER = {
    'loss_logits_kd': dict(type='LogitsKDLoss'),
    'loss_feature_kd': dict(type='FeatureKDLoss'),
    'loss_assign_kd': dict(type='AssignKDLoss'),
}


def distill(losses, **options):
    return DETRDistill(
        architecture=tiny('deformable', seed=1, num_layers=3),
        teacher=tiny('deformable', seed=2, num_layers=3),
        distiller=dict(type='DETRDistiller', distill_losses=losses),
        **options,
    ).train()


@pytest.fixture(scope='module')
def plain():
    adapter = build_adapter(tiny('deformable', seed=2).eval(), 'teacher')
    images, samples = batch()
    return adapter, images, samples, TeacherPass(adapter)(images, samples).outputs


@pytest.mark.parametrize(
    ('options', 'tolerance'),
    [
        (dict(channels_last=True), 1e-4),
        (dict(autocast='bfloat16'), 0.1),
        (dict(autocast='float16'), 0.02),
        (dict(compile=dict(backend='aot_eager', dynamic=True)), 1e-4),
    ],
)
def test_options_change_the_outputs_little(plain, options, tolerance):
    adapter, images, samples, expected = plain
    other = build_adapter(copy.deepcopy(adapter.detector), 'teacher')
    found = TeacherPass(other, **options)(images, samples).outputs
    assert found.logits.dtype == found.boxes.dtype == torch.float32
    for name in ('logits', 'boxes'):
        value, target = getattr(found, name), getattr(expected, name)
        assert (value - target).abs().max() <= tolerance, name
    if 'autocast' in options:  # it did something
        assert (found.logits - expected.logits).abs().max() > 1e-5
    if 'channels_last' in options:
        weight = other.detector.backbone.layer1[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)


def test_unknown_dtype_is_refused(plain):
    with pytest.raises(ValueError, match="'bfloat16' or 'float16', got 'int8'"):
        TeacherPass(plain[0], autocast='int8')


def test_half_precision_teacher_of_a_full_precision_student():
    """Queries that enter the student have its dtype; the losses stay near."""
    full, half = distill(PAPER), distill(PAPER, teacher_pass=dict(autocast='bfloat16'))
    images, samples = batch()
    for model in (full, half):
        for module in model.student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    expected, found = full.loss(images, samples), half.loss(images, samples)
    for name, value in expected.items():
        assert abs(found[name] - value) <= 0.1 * abs(value) + 0.05, name


@pytest.mark.skipif(shutil.which('g++') is None, reason='Inductor needs g++')
def test_teacher_compiled_by_inductor_gives_close_losses():
    """Really compiled; the backbone has one stage only, for g++ takes a second per kernel."""
    if not hasattr(torch.nn.Module, 'compile'):
        pytest.skip('PyTorch 2.2 and later compile a module')
    from torch._dynamo.utils import counters

    config = tiny_config('detr')
    config.backbone.update(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,))
    config.neck.in_channels = [8]
    distiller = dict(type='DETRDistiller', distill_losses=PAPER)
    losses = []
    for options in (None, dict(compile=dict(backend='inductor'))):
        graphs = counters['stats']['unique_graphs']
        pair = (build(copy.deepcopy(config), seed) for seed in (1, 2))
        model = DETRDistill(*pair, distiller, teacher_pass=options)
        torch.manual_seed(0)  # the student's dropout
        losses.append(model.train().loss(*batch()))
    assert counters['stats']['unique_graphs'] == graphs + 1  # the whole backbone is one
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        assert_close(losses[1][name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_nothing_is_kept_for_the_teachers_own_loss(plain):
    adapter, images, samples, _ = plain
    forward = TeacherPass(adapter)(images, samples)
    assert (forward.state.head_inputs, forward.outputs.decoder_outputs) == ({}, {})
    assert not any(
        value.requires_grad or value.is_inference()
        for value in (forward.state.memory, forward.outputs.logits, forward.outputs.hidden_states)
    )


@pytest.mark.parametrize(
    ('losses', 'stages'),
    [
        ({**PAPER, 'loss_assign_kd': None, 'loss_logits_kd': None}, [2]),
        ({'loss_logits_kd': dict(type='LogitsKDLoss', pairing='last')}, [2]),
        ({'loss_logits_kd': dict(type='LogitsKDLoss')}, [0, 1, 2]),
        ({name: dict(config, preset='released') for name, config in PAPER.items()}, None),
    ],
)
def test_ground_truth_assignment_only_where_a_loss_reads_it(losses, stages):
    """One call for the stages of all losses together; none when no loss reads any."""
    model = distill(losses)
    calls = []
    own = model.teacher_adapter.assign

    def assign(outputs, samples, label_map=None, stages=None):
        calls.append(list(stages))
        return own(outputs, samples, label_map, stages)

    model.teacher_adapter.assign = assign
    model.loss(*batch())
    assert calls == ([] if stages is None else [stages])


def test_the_teacher_runs_before_the_students_graph_exists():
    model = distill(PAPER)
    order = []
    for name in ('teacher', 'student'):
        detector = getattr(model, name)
        detector.backbone.register_forward_hook(lambda *_, n=name: order.append(n))
    model.loss(*batch())
    assert order == ['teacher', 'student']


def test_compile_on_old_torch_is_refused(monkeypatch):
    monkeypatch.delattr(torch.nn.Module, 'compile', raising=False)
    with pytest.raises(ValueError, match=r'teacher_pass\.compile needs PyTorch 2\.2'):
        distill(PAPER, teacher_pass=dict(compile={}))
