"""Names of the logged terms, scales, and MMRazor's own losses beside ours."""

import pytest
import torch

from mmdet_detrdistill import DETRDistill
from tests.tiny_detectors import batch, tiny

OURS = dict(
    loss_logits_kd=dict(type='LogitsKDLoss'),
    loss_feature_kd=dict(type='FeatureKDLoss'),
    loss_assign_kd=dict(type='AssignKDLoss'),
)


def build(**distiller):
    return DETRDistill(
        tiny('deformable', seed=1),
        tiny('deformable', seed=2),
        dict(type='DETRDistiller', **distiller),
    ).train()


def test_terms_are_named_after_their_loss():
    losses = build(distill_losses=OURS).loss(*batch())
    found = {name for name in losses if '_kd' in name}
    assert found == {
        'loss_logits_kd.cls', 'loss_logits_kd.bbox', 'loss_logits_kd.giou',
        'loss_logits_kd.neg_bbox', 'loss_logits_kd.neg_giou', 'logits_kd.entropy',
        'loss_feature_kd', 'loss_assign_kd.cls', 'loss_assign_kd.bbox', 'loss_assign_kd.iou',
    }  # fmt: skip


def test_weight_and_scale_multiply_every_term():
    """loss_weight 3 and scale 0.5 give 1.5 times the terms; the entropy follows the weight only."""
    base = build(distill_losses=OURS)
    torch.manual_seed(0)
    base = base.loss(*batch())
    tripled = {name: {**config, 'loss_weight': 3.0} for name, config in OURS.items()}
    model = build(distill_losses=tripled)
    for name in OURS:
        model.distiller.set_scale(name, 0.5)
    torch.manual_seed(0)
    scaled = model.loss(*batch())
    for name, value in scaled.items():
        factor = 1.5 if name.startswith('loss_') and '_kd' in name else 1.0
        factor = 3.0 if name == 'logits_kd.entropy' else factor
        torch.testing.assert_close(value, factor * base[name], rtol=1e-4, atol=1e-6, msg=name)


def test_unknown_loss_in_set_scale():
    with pytest.raises(KeyError, match='loss_logits_kd'):
        build(distill_losses=OURS).distiller.set_scale('loss_typo', 1.0)


def with_cwd():
    """CWD on the neck, through MMRazor's recorders and a connector."""
    student = dict(from_student=True, recorder='neck', data_idx=0, connector='widen')
    return build(
        distill_losses={**OURS, 'loss_cwd': dict(type='ChannelWiseDivergence', tau=1.0)},
        student_recorders=dict(neck=dict(type='ModuleOutputs', source='neck')),
        teacher_recorders=dict(neck=dict(type='ModuleOutputs', source='neck')),
        connectors=dict(widen=dict(type='ConvModuleConnector', in_channel=256, out_channel=256)),
        loss_forward_mappings=dict(
            loss_cwd=dict(
                preds_S=student, preds_T=dict(from_student=False, recorder='neck', data_idx=0)
            )
        ),
    )


def test_mmrazor_loss_beside_ours():
    """Equal to a direct call on the same maps."""
    model = with_cwd()
    images, samples = batch()
    losses = model.loss(images, samples)
    with torch.no_grad():
        maps = [side.extract_feat(images)[0] for side in (model.student, model.teacher)]
        maps[0] = model.distiller.connectors['widen'](maps[0])
        expected = model.distiller.distill_losses['loss_cwd'](*maps)
    torch.testing.assert_close(losses['loss_cwd'], expected)
    assert 'loss_feature_kd' in losses


def test_factor_zero_skips_a_mmrazor_loss():
    """It is not computed; its connector gets a gradient of zero, as DDP needs."""
    model = with_cwd()
    model.distiller.set_scale('loss_cwd', 0)
    model.distiller.distill_losses['loss_cwd'].forward = None  # calling it would raise
    losses = model.loss(*batch())
    assert losses['loss_cwd'] == 0
    losses['loss_cwd'].backward()
    for parameter in model.distiller.connectors.parameters():
        assert not parameter.grad.any()


def test_stopped_distillation_leaves_the_task_loss_alone():
    model = build(distill_losses=OURS)
    model.distillation_stopped = True
    model.teacher_adapter.forward_pass = None  # calling it would raise
    assert not any('_kd' in name for name in model.loss(*batch()))
