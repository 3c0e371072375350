"""Queries at the boxes of the teacher's last stage: what they are to learn, and their precision."""

import pytest
import torch
from torch.testing import assert_close

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.detectors.pair import DistillPair
from tests.distillation.test_unequal import without_dropout
from tests.reference import assign_kd_reference
from tests.reference_aligned import aligned_kd_reference
from tests.tiny_detectors import batch, tiny

LOSSES = dict(loss_assign_kd=dict(type='AssignKDLoss'), loss_aligned_kd=dict(type='AlignedKDLoss'))
STUDENTS = ('dab', 'deformable_two_stage', 'dino', 'ddq')


def pair_of(variant, teacher='deformable'):
    distiller = dict(type='DETRDistiller', distill_losses=LOSSES)
    model = DETRDistill(tiny(variant, 1), tiny(teacher, 2, num_layers=3), distiller).train()
    without_dropout(model)
    images, samples = batch()
    adapters = model.student_adapter, model.teacher_adapter
    pair = DistillPair(
        *adapters,
        *(adapter.forward_pass(images, samples) for adapter in adapters),
        samples,
        injections=model.distiller.injections,
        assigned_stages=model.distiller.assigned_stages(2, 3),
    )
    return model, pair


@pytest.mark.parametrize('pairing', ['group', 'uniform'])
def test_every_stage_follows_the_stage_that_made_the_anchors(monkeypatch, pairing):
    """The teacher's stages give an object to different queries; one anchor has one label."""
    monkeypatch.setitem(LOSSES, 'loss_assign_kd', dict(type='AssignKDLoss', pairing=pairing))
    model, pair = pair_of('dab')
    teacher = pair.teacher_forward.outputs
    assignment = model.teacher_adapter.assign(teacher, pair.samples)
    assert (assignment[0] != assignment[-1]).any()
    assert pair.assigned_stages == (2,)
    losses = model.distiller.pair_losses
    outputs = losses['loss_assign_kd'].injected_pass(pair)
    labels, boxes, sizes = pair.ground_truth
    head = model.student.bbox_head
    expected = assign_kd_reference(
        outputs.logits,
        outputs.boxes,
        assignment[-1:],
        labels,
        boxes,
        activation='sigmoid',
        background_weight=float(head.bg_cls_weight),
        cls_weight=head.loss_cls.loss_weight,
        image_sizes=sizes,
        query_mask=None,
        pairing='group',
    )
    found = losses['loss_assign_kd'](pair)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-4), name
    expected = aligned_kd_reference(
        outputs.logits,
        outputs.boxes,
        teacher.logits[-1:],
        teacher.boxes[-1:],
        assignment[-1:] >= 0,
        student_mask=None,
        teacher_mask=None,
        pairing='group',
        student_activation='sigmoid',
        teacher_activation='sigmoid',
    )
    found = losses['loss_aligned_kd'](pair)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize('variant', STUDENTS)
def test_boxes_stay_exact_when_queries_are_bfloat16(variant):
    """A box as wide as the image: 1 - 1e-3 is 1 in bfloat16, and its logit infinite."""
    model, pair = pair_of(variant, 'dab' if variant != 'dab' else 'deformable')
    state = pair.student_forward.state
    for name in ('query', 'query_pos', 'reference_points'):
        if state.decoder_inputs.get(name) is not None:
            state.decoder_inputs[name] = state.decoder_inputs[name].bfloat16()
    pair.teacher_forward.outputs.boxes[-1, :, 0] = torch.tensor([0.5, 0.5, 1.0, 1.0])
    (rule,) = model.distiller.pair_losses['loss_assign_kd'].rules.values()
    with torch.autocast('cpu', torch.bfloat16):
        queries = rule(pair)
        assert all(torch.isfinite(value).all() for value in queries.values())
        wide = torch.tensor([0.5, 0.5, 0.999, 0.999])
        if variant == 'dab':
            assert_close(queries['query_pos'][0, 0].sigmoid(), wide)
        else:
            assert_close(queries['reference_points'][0, 0], wide)
        outputs = model.student_adapter.decode(state, queries)
    assert torch.isfinite(outputs.boxes).all() and torch.isfinite(outputs.logits).all()


@pytest.mark.parametrize('variant', ['deformable', 'deformable_two_stage', 'dino'])
def test_reference_points_of_the_teacher_s_queries_stay_exact(variant):
    model, pair = pair_of(variant, variant)
    own, other = (p.state.decoder_inputs for p in (pair.student_forward, pair.teacher_forward))
    own['reference_points'] = own['reference_points'].bfloat16()
    (rule,) = model.distiller.pair_losses['loss_assign_kd'].rules.values()
    assert torch.equal(rule(pair)['reference_points'], other['reference_points'])
