"""Options beyond the paper, through the registered losses on a padded batch."""

import pytest
import torch
from torch.testing import assert_close

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.distillation.distiller import PAIR_LOSSES
from tests.reference import logits_kd_reference
from tests.reference_terms import iou_and_giou
from tests.support_table import STUDENTS, build_tiny
from tests.tiny_detectors import batch, tiny


def distill(variant, losses, **options):
    model = DETRDistill(
        tiny(variant, seed=1, **options),
        tiny(variant, seed=2, **options),
        dict(type='DETRDistiller', distill_losses=losses),
    )
    return model.train()


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, (torch.nn.Dropout, torch.nn.MultiheadAttention)):
            setattr(module, 'p' if isinstance(module, torch.nn.Dropout) else 'dropout', 0.0)
    return model


def passes(model, images, samples):
    adapters = model.student_adapter, model.teacher_adapter
    torch.manual_seed(0)
    return [adapter.forward_pass(images, samples) for adapter in adapters]


def relative(samples):
    """Per image (M, 4) cxcywh in [0, 1]."""
    found = []
    for sample in samples:
        height, width = sample.metainfo['img_shape']
        x1, y1, x2, y2 = sample.gt_instances.bboxes.unbind(-1)
        centre = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
        found.append(torch.stack((*centre, (x2 - x1) / width, (y2 - y1) / height), -1))
    return found


@pytest.mark.parametrize('variant', ['detr', 'deformable'])
def test_hard_negatives_of_a_batch(variant):
    losses = dict(loss_logits_kd=dict(type='LogitsKDLoss', negatives='hard', negative_cls=True))
    model = without_dropout(distill(variant, losses))
    images, samples = batch(empty='one')
    found = model.loss(images, samples)
    student, teacher = passes(model, images, samples)
    kind = model.student_adapter.activation
    expected = logits_kd_reference(
        student.outputs.logits, student.outputs.boxes,
        teacher.outputs.logits, teacher.outputs.boxes,
        model.teacher_adapter.assign(teacher.outputs, samples) >= 0,
        student_activation=kind, teacher_activation=kind,
        negatives='hard', negative_cls=True, gt_boxes=relative(samples),
    )  # fmt: skip
    for name, value in expected.items():
        key = 'logits_kd.entropy' if name == 'entropy' else f'loss_logits_kd.{name}'
        assert_close(found[key], torch.as_tensor(value).float(), rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize('variant', ['detr', 'dino'])
def test_memory_under_the_objects_of_a_padded_batch(variant):
    """The mean over an image's pixels of the squared error in pixels that an object covers."""
    losses = dict(loss_feature_kd=dict(type='FeatureKDLoss', mask='ground_truth'))
    model = without_dropout(distill(variant, losses))
    images, samples = batch()
    torch.manual_seed(0)
    found = model.loss(images, samples)['loss_feature_kd']
    student, teacher = passes(model, images, samples)
    expected = 0.0
    valid = teacher.state.valid_masks
    for level, (own, other) in enumerate(
        zip(student.state.memory_maps(), teacher.state.memory_maps())
    ):
        height, width = own.shape[-2:]
        for b, sample in enumerate(samples):
            scale = torch.tensor([width / 128, height / 96] * 2)
            boxes = (sample.gt_instances.bboxes * scale).tolist()
            kept = valid[level][b]
            for row, column in kept.nonzero().tolist():
                cell = column, row, column + 1, row + 1
                if any(iou_and_giou(cell, box)[0] > 0 for box in boxes):
                    error = (own[b, :, row, column] - other[b, :, row, column]).square().mean()
                    expected = expected + error / kept.sum() / len(samples)
    assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert model.distiller.distill_losses['loss_feature_kd'].assigned_stages(6, 6) == ()


@pytest.mark.parametrize('student', STUDENTS)
def test_one_step_of_each_family(student):
    """Hard negatives, and memory under the objects; an image without objects in the batch."""
    losses = dict(
        loss_logits_kd=dict(type='LogitsKDLoss', negatives='hard'),
        loss_feature_kd=dict(type='FeatureKDLoss', mask='ground_truth'),
    )
    own, other = build_tiny(student, seed=1), build_tiny(student, seed=2, num_queries=15)
    model = DETRDistill(own, other, dict(type='DETRDistiller', distill_losses=losses)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    found = model.loss(*batch(empty='one'))
    for name in losses:
        terms = [value for key, value in found.items() if key.startswith(name)]
        total = sum(terms)
        parameters = [p for p in model.student.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        norms = [gradient.norm() for gradient in gradients if gradient is not None]
        assert total > 0 and all(map(torch.isfinite, norms)) and sum(norms) > 0, name
    model.parse_losses(found)[0].backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())


@pytest.mark.parametrize(
    ('name', 'option', 'value'),
    [
        ('loss_logits_kd', 'negatives', 'easy'),
        ('loss_logits_kd', 'hard_giou', -0.5),
        ('loss_logits_kd', 'negative_cls', 'True'),
        ('loss_logits_kd', 'cls_weight', '1'),
        ('loss_feature_kd', 'mask', 'boxes'),
        ('loss_feature_kd', 'normalize', 1),
        ('loss_feature_kd', 'gamma', 1.5),
        ('loss_aligned_kd', 'preset', 'paper'),
        ('loss_assign_kd', 'loss_weight', -1.0),
    ],
)
def test_other_values_are_refused(name, option, value):
    with pytest.raises(ValueError, match=option):
        distill('deformable', {name: {'type': PAIR_LOSSES[name].__name__, option: value}})
