"""Names of the logged terms, scales, and MMRazor's own losses beside ours."""

import copy

import mmdet.registry
import pytest
import torch
from mmengine.registry import Registry

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.losses import DistillLoss
from tests.tiny_detectors import batch, tiny, tiny_config

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


MAPPED = dict(
    student_recorders=dict(neck=dict(type='ModuleOutputs', source='neck')),
    teacher_recorders=dict(neck=dict(type='ModuleOutputs', source='neck')),
    loss_forward_mappings=dict(
        loss_feature_kd=dict(
            preds_S=dict(from_student=True, recorder='neck', data_idx=0),
            preds_T=dict(from_student=False, recorder='neck', data_idx=0),
        )
    ),
)
CWD = dict(type='ChannelWiseDivergence')


MALFORMED = [
    ('loss_feature_kd', CWD, 'ChannelWiseDivergence is no DistillLoss and has no entry in'),
    ('loss_cwd', dict(type='mmrazor.ChannelWiseDivergence'), 'has no entry in'),
    ('loss_logits_kd', dict(type='FeatureKDLoss'), "goes by the name 'loss_feature_kd'"),
    ('loss_logits_kd', dict(type='LogitKDLoss'), "no registered 'LogitKDLoss'"),
    ('loss_logits_kd', dict(loss_weight=1.0), 'must be None or a dict with the `type`'),
    ('loss_logits_kd', [OURS['loss_logits_kd']], 'must be None or a dict'),
    ('loss_logits_kd', 'LogitsKDLoss', 'must be None or a dict'),
    ('loss_logits_kd', False, 'must be None or a dict'),
    ('loss_logits_kd', dict(type='LogitsKDLoss', loss_weight=-1), 'loss_weight must be >= 0'),
    ('loss_logits_kd', dict(type='LogitsKDLoss', bbox_weight='5'), 'must be a number'),
    ('loss_logits_kd', dict(type='LogitsKDLoss', negative_cls='False'), 'True or False'),
    ('loss_feature_kd', dict(type='FeatureKDLoss', gamma=1.5), r'gamma must lie in \[0, 1\]'),
    ('loss_assign_kd', dict(type='AssignKDLoss', injection='auto'), 'a dict with a `type`'),
    ('loss_assign_kd', dict(type='AssignKDLoss', injection={}), 'a dict with a `type`'),
    ('loss_aligned_kd', dict(type='AlignedKDLoss', injection="[{'type'"), 'a list of such dicts'),
    ('kd_of_mine', dict(type='OwnLoss'), 'a DistillLoss is named loss_'),
]


@pytest.mark.parametrize(('name', 'entry', 'message'), MALFORMED)
def test_every_entry_is_compared(name, entry, message):
    with pytest.raises(ValueError, match=message):
        build(distill_losses={name: entry})


def test_entries_that_are_no_dict():
    with pytest.raises(ValueError, match='distill_losses must be a dict'):
        build(distill_losses=[OURS['loss_logits_kd']])


@pytest.mark.parametrize('distiller', [None, dict(), dict(type='ConfigurableDistiller')])
def test_other_distillers(distiller):
    with pytest.raises(ValueError, match=r"distiller must be dict\(type='DETRDistiller'"):
        DETRDistill(tiny('deformable'), tiny('deformable'), distiller)


def test_sides_that_cannot_be_trained():
    detector, ours = tiny('deformable'), dict(type='DETRDistiller')
    with pytest.raises(ValueError, match='are the same object'):
        DETRDistill(detector, detector, ours)
    config = tiny_config('deformable')
    config.train_cfg = None
    with pytest.raises(ValueError, match=r'architecture\.train_cfg is missing'):
        DETRDistill(config, detector, ours)


OTHER = Registry('model', parent=mmdet.registry.MODELS, scope='other_project')


@mmdet.registry.MODELS.register_module()
class OwnLoss(DistillLoss):
    """A quarter of the teacher's largest logit, as a loss of one's own."""

    def __init__(self, loss_weight=1.0):
        super().__init__(loss_weight)

    def forward(self, pair):
        return {'': self.loss_weight * pair.teacher_forward.outputs.logits.max()}


@OTHER.register_module()
class ProjectLoss(OwnLoss):
    """Likewise, known in its own scope alone."""


@pytest.mark.parametrize('name', ['loss_mine', 'loss_feature_kd'])
@pytest.mark.parametrize(
    'kind', ['OwnLoss', 'mmdet.OwnLoss', OwnLoss, 'ProjectLoss', 'other_project.ProjectLoss']
)
def test_a_loss_of_ones_own_goes_by_any_name_and_scope(name, kind):
    model = build(distill_losses={name: dict(type=kind, loss_weight=0.25)})
    images, samples = batch()
    losses = model.loss(images, samples)
    expected = model.teacher_pass(images, samples).outputs.logits.max()
    torch.testing.assert_close(losses[name], 0.25 * expected)


def test_a_mmrazor_loss_under_our_name_is_mapped():
    losses = build(distill_losses=dict(loss_feature_kd=CWD), **MAPPED).loss(*batch())
    assert losses['loss_feature_kd'] > 0


def test_hooks_find_the_student_in_the_wrapper():
    """What MMDetection's hooks look for: YOLOXModeSwitchHook sets a switch in the head."""
    model = build(distill_losses=OURS)
    for name in ('backbone', 'neck', 'bbox_head', 'encoder', 'decoder', 'with_neck', 'num_queries'):
        assert getattr(model, name) is getattr(model.student, name), name
    model.bbox_head.use_l1 = True
    assert model.student.bbox_head.use_l1
    assert not hasattr(model, 'roi_head')
    neck = copy.deepcopy(model.neck)
    model.neck, model.num_queries, model.distillation_stopped = neck, 5, True
    assert (model.student.neck, model.student.num_queries) == (neck, 5)
    assert model.distillation_stopped and not hasattr(model.student, 'distillation_stopped')
    assert 'neck' not in model._modules
    assert list(model._modules) == list(copy.deepcopy(model)._modules)


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
