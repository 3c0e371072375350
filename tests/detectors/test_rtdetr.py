"""RT-DETR as student and teacher, on a stand-in with its interface."""

import copy

import pytest
import torch

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.detectors import build_adapter, ground_truth
from mmdet_detrdistill.detectors.pair import DistillPair
from mmdet_detrdistill.functional.assign_kd import assign_kd
from tests.detectors.test_parity import BATCHES, total_of
from tests.stand_ins.rtdetr import RTDETR, rtdetr
from tests.tiny_detectors import batch, tiny


@pytest.fixture(scope='module', params=['RTDETRV2', 'DEIMRTDETR'])
def detector(request):
    return rtdetr(version=request.param)


@pytest.mark.parametrize('kind', BATCHES)
def test_forward_pass_equals_loss(detector, kind):
    """Names, values and gradients of the detector's own losses, bit for bit."""
    images, samples = batch(**BATCHES[kind])
    own, staged = copy.deepcopy(detector).train(), copy.deepcopy(detector).train()
    torch.manual_seed(1)
    expected = own.loss(images, copy.deepcopy(samples))
    torch.manual_seed(1)
    adapter = build_adapter(staged)
    losses = adapter.task_loss(adapter.forward_pass(images, samples), samples)
    assert list(losses) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=0, atol=0, msg=name)
    total_of(own, expected).backward()
    total_of(staged, losses).backward()
    theirs = dict(own.named_parameters())
    for name, parameter in staged.named_parameters():
        grad = theirs[name].grad
        assert (parameter.grad is None) == (grad is None), name
        if grad is not None:
            torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize('kind', BATCHES)
@torch.no_grad()
def test_a_teacher_gives_every_stage_and_the_last_is_the_detector_s(detector, kind):
    images, samples = batch(**BATCHES[kind])
    detector.eval()
    (logits,), (boxes,) = detector._forward(images, samples)
    adapter = build_adapter(detector, 'teacher')
    forward = adapter.forward_pass(images, samples)
    outputs = forward.outputs
    assert outputs.logits.shape[0] == 2
    torch.testing.assert_close(outputs.logits[-1], logits, rtol=0, atol=0)
    torch.testing.assert_close(outputs.boxes[-1], boxes, rtol=0, atol=0)
    assert not detector.decoder.training, 'the decoder is in eval mode again'
    head = detector.bbox_head.cls_branches
    again = torch.stack([branch(hidden) for branch, hidden in zip(head, outputs.hidden_states)])
    torch.testing.assert_close(again, outputs.logits, rtol=0, atol=0)
    detector.bbox_head.test_cfg = dict(max_per_img=10)
    predicted = adapter.predict(images, copy.deepcopy(samples))
    for own, sample in zip(adapter.post_process(forward, samples), predicted):
        for name, value in sample.pred_instances.items():
            assert torch.equal(own[name], value), name


def test_the_varifocal_target_is_the_iou_of_the_label(detector):
    """`criterion` on the assignment of the head adds up to the head's own loss."""
    images, samples = batch()
    adapter = build_adapter(detector.train())
    outputs = adapter.forward_pass(images, samples).outputs
    assignment = adapter.assign(outputs, samples)
    labels, boxes, sizes = ground_truth(samples)
    terms = assign_kd(
        outputs.logits[-1:],
        outputs.boxes[-1:],
        assignment[-1:],
        labels,
        boxes,
        num_classes=adapter.num_classes,
        criterion=adapter.criterion(),
        image_sizes=sizes,
    )
    own = adapter.head.loss_by_feat_single(
        outputs.logits[-1],
        outputs.boxes[-1],
        [s.gt_instances for s in samples],
        [s.metainfo for s in samples],
    )
    for name, expected in zip(('cls', 'bbox', 'iou'), own):
        torch.testing.assert_close(terms[name], expected.squeeze(), rtol=1e-5, atol=1e-6)


def test_injected_boxes_take_memory_at_their_place_and_size():
    """The level grows with the box; the content is the memory under the box's centre."""
    student, teacher = rtdetr(seed=1), tiny('dino', seed=2, num_queries=15)
    losses = dict(loss_assign_kd=dict(type='AssignKDLoss'))
    model = DETRDistill(student, teacher, dict(type='DETRDistiller', distill_losses=losses)).train()
    images, samples = batch(padded=False)
    own = model.student_adapter.forward_pass(images, samples)
    other = model.teacher_adapter.forward_pass(images, samples)
    height, width = own.state.sizes[1]
    column, row = 2, 3
    with torch.no_grad():
        other.outputs.boxes[-1, :, 0] = torch.tensor(
            [(column + 0.5) / width, (row + 0.5) / height, 0.1, 0.1]
        )
        content = student.memory_trans_norm(student.memory_trans_fc(own.state.memory))
    (rule,) = model.distiller.injections.values()
    queries = rule(DistillPair(model.student_adapter, model.teacher_adapter, own, other, samples))
    place = own.state.sizes[0][0] * own.state.sizes[0][1] + row * width + column
    torch.testing.assert_close(queries['query'][:, 0], content[:, place], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        queries['reference_points'][:, 0].sigmoid(), other.outputs.boxes[-1, :, 0]
    )
    assert model.student_adapter.decode(own.state, queries).boxes.shape == (2, 2, 15, 4)


def test_d_fine_is_refused_by_name():
    class DFINE(RTDETR):
        pass

    detector = rtdetr()
    detector.__class__ = DFINE
    with pytest.raises(TypeError, match='D-FINE'):
        build_adapter(detector)
