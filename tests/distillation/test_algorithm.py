"""DETRDistill on every variant: what runs, what gets a gradient, what equals MMDetection."""

import copy
import dataclasses

import pytest
import torch
from mmengine.config import ConfigDict

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.detectors.pair import DistillPair
from mmdet_detrdistill.functional.boxes import clamp_to_image
from tests.tiny_detectors import VARIANTS, batch, build, tiny, tiny_config

LOSSES = {
    'loss_logits_kd': dict(type='LogitsKDLoss'),
    'loss_feature_kd': dict(type='FeatureKDLoss'),
    'loss_assign_kd': dict(type='AssignKDLoss'),
}


def distill(variant, losses, preset='paper', student_seed=1, **teacher_options):
    """A student and an unlike teacher of one variant."""
    configs = {
        name: None if config is None else {**config, 'preset': preset}
        for name, config in losses.items()
    }
    return DETRDistill(
        architecture=tiny(variant, seed=student_seed),
        teacher=tiny(variant, seed=2, **teacher_options),
        distiller=dict(type='DETRDistiller', distill_losses=configs),
    ).train()


def only(name):
    return {other: LOSSES[other] if other == name else None for other in LOSSES}


@pytest.mark.parametrize('preset', ['paper', 'released'])
@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('variant', VARIANTS)
def test_each_loss_alone(variant, name, preset):
    """Its gradient reaches the student and no teacher; two teacher passes are identical."""
    model = distill(variant, only(name), preset, num_queries=15)
    images, samples = batch(empty='one')
    before = copy.deepcopy(model.teacher.state_dict())
    losses = model.loss(images, samples)
    terms = {key: value for key, value in losses.items() if key.startswith(name)}
    assert terms and all(value.dim() == 0 and torch.isfinite(value) for value in terms.values())
    sum(terms.values()).backward()

    parts = {
        'loss_logits_kd': 'decoder',
        'loss_feature_kd': 'backbone',
        'loss_assign_kd': 'decoder',
    }
    reached = [
        key
        for key, parameter in model.student.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    ]
    assert any(key.startswith(parts[name]) for key in reached)
    assert any(key.startswith('backbone') for key in reached)
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    for key, value in model.teacher.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, msg=key)

    with torch.no_grad():
        first, second = (
            model.teacher_adapter.forward_pass(images, samples).outputs for _ in range(2)
        )
    torch.testing.assert_close(first.logits, second.logits, rtol=0, atol=0)
    torch.testing.assert_close(first.boxes, second.boxes, rtol=0, atol=0)


@pytest.mark.parametrize('variant', ['deformable', 'dino', 'ddq'])
def test_without_losses_equals_plain_mmdetection(variant):
    """Same losses under the same names, same weights after a step, and the teacher never runs."""
    plain = tiny(variant, seed=1).train()
    model = distill(variant, dict.fromkeys(LOSSES))
    images, samples = batch()
    model.teacher_adapter.forward_pass = None  # calling it would raise

    torch.manual_seed(3)
    expected = plain.loss(images, copy.deepcopy(samples))
    torch.manual_seed(3)
    losses = model.loss(images, samples)
    assert list(losses) == list(expected)
    for module, found in ((plain, expected), (model, losses)):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        module.parse_losses(found)[0].backward()
        optimizer.step()
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(model.student.state_dict()[key], value, rtol=0, atol=0, msg=key)


def test_student_starts_as_it_does_alone():
    """Building the teacher and the losses first draws no random numbers from the student."""
    config = tiny_config('deformable')
    teacher = tiny('deformable', seed=2, num_layers=4)
    plain = build(copy.deepcopy(config), seed=5)
    torch.manual_seed(5)
    model = DETRDistill(
        architecture=copy.deepcopy(config),
        teacher=teacher,
        distiller=dict(type='DETRDistiller', distill_losses=LOSSES),
    )
    model.init_weights()
    state = model.student.state_dict()
    for key, value in plain.state_dict().items():
        if not key.startswith('bbox_head'):  # `build` spreads the heads
            torch.testing.assert_close(state[key], value, rtol=0, atol=0, msg=key)


def test_teacher_is_outside_the_module_tree():
    model = distill('deformable', LOSSES)
    assert not any('teacher' in key for key in model.state_dict())
    assert not any('teacher' in key for key, _ in model.named_parameters())
    model.to(torch.float64)
    assert next(model.teacher.parameters()).dtype == torch.float64
    assert not any(module.training for module in model.train().teacher.modules())
    copied = copy.deepcopy(model)
    assert copied.teacher is model.teacher
    assert copied.student is not model.student
    assert copied.student_adapter.detector is copied.student


def test_equal_detectors_have_zero_logits_and_feature_loss():
    """Every term vanishes when the student's pass is the teacher's; boxes lie inside the image."""
    for variant in VARIANTS:
        model = distill(variant, {**LOSSES, 'loss_assign_kd': None}, student_seed=2).eval()
        images, samples = batch()
        adapter = model.teacher_adapter
        forward = adapter.forward_pass(images, samples)
        inside = dataclasses.replace(forward.outputs, boxes=clamp_to_image(forward.outputs.boxes))
        passes = forward._replace(outputs=inside), forward
        rules = model.distiller.injections
        pair = DistillPair(adapter, adapter, *passes, samples, injections=rules)
        losses = model.distiller.compute_distill_losses(pair)
        assert losses.pop('logits_kd.entropy') > 0.1
        for name, value in losses.items():
            torch.testing.assert_close(
                value, torch.zeros(()), rtol=0, atol=1e-4, msg=f'{variant} {name} {value}'
            )


def test_injected_pass_of_equal_detectors_gives_the_teachers_outputs():
    """Injecting a detector's own queries into itself changes nothing; the encoder is not run."""
    for variant in VARIANTS:
        model = distill(variant, only('loss_assign_kd'), student_seed=2).eval()
        images, samples = batch()
        adapter = model.student_adapter
        forward = adapter.forward_pass(images, samples)
        model.student.forward_encoder = None  # calling it would raise
        rules = model.distiller.injections
        pair = DistillPair(adapter, adapter, forward, forward, samples, injections=rules)
        injected = model.distiller.pair_losses['loss_assign_kd'].injected_pass(pair)
        torch.testing.assert_close(injected.logits, forward.outputs.logits, msg=variant)
        torch.testing.assert_close(injected.boxes, forward.outputs.boxes, msg=variant)


@pytest.mark.parametrize(
    ('losses', 'message'),
    [
        (dict(loss_logit_kd=dict(type='LogitsKDLoss')), 'loss_logits_kd'),
        (dict(loss_logits_kd=dict(type='LogitsKDLoss', negative_class=True)), 'negative_cls'),
        (dict(loss_logits_kd=dict(type='LogitsKDLoss', preset='papers')), 'released'),
        (dict(loss_feature_kd=dict(type='FeatureKDLoss', mask='sum')), 'per_query'),
        (dict(loss_assign_kd=dict(type='AssignKDLoss', assignment='gt')), 'teacher'),
    ],
)
def test_typo_lists_the_valid_names(losses, message):
    with pytest.raises(Exception, match=message):
        distill_with = dict(type='DETRDistiller', distill_losses=losses)
        DETRDistill(tiny('detr'), tiny('detr'), distill_with)


def test_other_number_of_classes_is_refused():
    config = tiny_config('detr')
    config.bbox_head.num_classes = 5
    with pytest.raises(ValueError, match='3 classes, the teacher 5'):
        DETRDistill(tiny('detr'), build(config), dict(type='DETRDistiller'))


def test_unknown_family_names_the_missing_stage():
    model = ConfigDict(
        type='RetinaNet',
        backbone=tiny_config('deformable').backbone,
        neck=dict(type='FPN', in_channels=[16, 32, 64], out_channels=16, num_outs=5),
        bbox_head=dict(type='RetinaHead', num_classes=3, in_channels=16, feat_channels=16),
    )
    with pytest.raises(TypeError, match=r'RetinaNet.*pre_transformer'):
        DETRDistill(tiny('detr'), build(model), dict(type='DETRDistiller'))


def test_teacher_config_without_checkpoint_is_refused():
    with pytest.raises(ValueError, match='teacher_ckpt'):
        DETRDistill(tiny('detr'), tiny_config('detr'), dict(type='DETRDistiller'))


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_nan_names_side_stage_and_image(side):
    model = distill('conditional', LOSSES)
    getattr(model, side).bbox_head.fc_cls.bias.data.fill_(float('nan'))
    with pytest.raises(
        ValueError, match=rf'{side} logits are not finite at stage 0, image 0.*: first\.png$'
    ):
        model.loss(*batch())


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('name', [*LOSSES, 'loss_aligned_kd'])
def test_teacher_s_nan_names_the_right_image(name, value):
    """The second image's features are bad; also under a loss that matches nothing."""
    losses = {**LOSSES, 'loss_aligned_kd': dict(type='AlignedKDLoss')}
    model = distill('deformable', {name: losses[name]}, preset=None)  # each loss's default
    extract_feat = model.teacher.extract_feat

    def broken(images):
        return tuple(torch.cat((f[:1], f[1:] * value)) for f in extract_feat(images))

    model.teacher.extract_feat = broken
    what = 'features' if name == 'loss_feature_kd' else r'\w+'
    with pytest.raises(ValueError, match=rf'teacher {what} are not finite at .*: second\.png$'):
        model.loss(*batch())


def test_queries_of_another_family_are_refused_by_name():
    with pytest.raises(ValueError, match=r"kind 'proposal', not 'conditional'.*no anchor box"):
        DETRDistill(
            tiny('conditional'),
            tiny('deformable_two_stage'),
            dict(type='DETRDistiller', distill_losses=only('loss_assign_kd')),
        )


@pytest.mark.skipif(
    torch.__version__ < '2', reason='group_norm of PyTorch 1.13 takes no bfloat16 on a CPU'
)
def test_bfloat16_autocast_changes_little():
    """Matching, boxes and masks stay in float32; only the detectors round more coarsely."""
    model = distill('deformable', LOSSES)
    for module in model.student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    full = model.loss(*batch())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        half = model.loss(*batch())
    for name, value in full.items():
        if '_kd' in name:
            assert half[name].dtype == torch.float32, name
            assert abs(half[name] - value) <= 0.1 * abs(value) + 0.02, (name, half[name], value)
