"""What the config check measures, by value."""

from types import SimpleNamespace

import pytest
import torch

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.check.step import (
    count_flops,
    describe_levels,
    describe_parts,
    step_parts,
    verdict,
)
from mmdet_detrdistill.distillation.balance import gradient_norms
from tests.departing_detectors import sparse_rcnn
from tests.tiny_detectors import batch, tiny


def test_verdict_by_hand():
    """Half the task loss's gradient is aimed at; between 0.05 and 2 times is sane."""
    assert verdict(3.0, 2.0, 1.0) == ', sane (1.5 x task)'
    assert verdict(20.0, 2.0, 1.0) == ', 10 x task: try loss_weight=0.05 for 0.5 x'
    assert verdict(0.02, 2.0, 3.0) == ', 0.01 x task: try loss_weight=1.5e+02 for 0.5 x'
    assert verdict(0.0, 2.0, 1.0) == ', no gradient in this batch'
    assert verdict(3.0, 2.0, None) == ''


def test_gradient_norms_are_those_of_each_loss_alone():
    """With activation checkpointing too; gradients that are there stay."""
    losses = dict(
        loss_logits_kd=dict(type='LogitsKDLoss'), loss_feature_kd=dict(type='FeatureKDLoss')
    )
    model = DETRDistill(
        tiny('detr', 1, width=64),
        tiny('detr', 2, width=64),
        dict(type='DETRDistiller', distill_losses=losses),
    ).train()
    for block in model.student.backbone.modules():
        if hasattr(block, 'with_cp'):
            block.with_cp = True
    found = model.loss(*batch())
    kept = [torch.full_like(p, 2.0) for p in model.student.parameters()]
    for parameter, grad in zip(model.student.parameters(), kept):
        parameter.grad = grad
    norms = gradient_norms(model, found)
    assert all(
        p.grad is grad and (grad == 2).all() for p, grad in zip(model.student.parameters(), kept)
    )
    assert list(norms) == ['task', 'loss_logits_kd', 'loss_feature_kd']
    for name, (value, norm) in norms.items():
        own = [v for key, v in found.items() if key.split('.')[0] == name]
        if name == 'task':
            own = [v for key, v in found.items() if '_kd' not in key]
        model.zero_grad()
        sum(own).backward(retain_graph=True)
        gradients = [p.grad.flatten() for p in model.student.parameters() if p.grad is not None]
        assert value == pytest.approx(float(sum(own)))
        assert norm == pytest.approx(float(torch.cat(gradients).norm()), rel=1e-4)


def test_flops_by_hand():
    """A 3 -> 5 layer on 4 rows of 2 images: 2 * 3 * 5 * 4 per image."""
    layer = torch.nn.Linear(3, 5, bias=False).train()
    images = torch.rand(2, 4, 3)
    adapter = SimpleNamespace(
        detector=layer, forward_pass=lambda images, samples: layer(1e4 * images)
    )
    assert count_flops(adapter, images, []) == f'{2 * 3 * 5 * 4 / 1e9:.2f}'
    wide = torch.nn.Linear(3000, 50000, bias=False)
    adapter = SimpleNamespace(detector=wide, forward_pass=lambda images, samples: wide(images))
    assert count_flops(adapter, torch.rand(2, 4, 3000), []) == '1.20'
    assert layer.training


def test_strides_and_levels_without_a_partner():
    model = DETRDistill(
        tiny('deformable', 1, width=64, strides=(16, 32, 64)),
        tiny('deformable', 2, width=64),
        dict(type='DETRDistiller', distill_losses=dict(loss_feature_kd=dict(type='FeatureKDLoss'))),
    )
    text = '[16, 32, 64] / [8, 16, 32, 64], distilled: [16, 32, 64], only the teacher has [8]'
    assert describe_levels(model) == [('feature strides', text)]


def test_the_parts_of_a_step_by_hand():
    """Shares in per cent, and advice for a part that is large."""
    (head, text), *advice = describe_parts(dict(student=5.0, teacher=4.0, matching=1.0))
    assert (head, text) == ('a step is made of', 'student 50%, teacher 40%, matching 10%')
    assert len(advice) == 1 and "teacher_pass.autocast='bfloat16'" in advice[0][1]


def test_the_parts_of_a_step_of_a_detector_without_a_decoder_module():
    losses = dict(loss_assign_kd=dict(type='AssignKDLoss'))
    distiller = dict(type='DETRDistiller', distill_losses=losses)
    model = DETRDistill(sparse_rcnn(1), sparse_rcnn(2), distiller).train()
    assert list(step_parts(model, *batch())) == ['teacher', 'student', 'injected']
