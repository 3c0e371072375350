"""Sparse R-CNN as student and teacher, MMDetection's own."""

import copy

import pytest
import torch

from mmdet_detrdistill.detectors import build_adapter, ground_truth
from mmdet_detrdistill.functional.assign_kd import assign_kd
from tests.departing_detectors import sparse_rcnn
from tests.detectors.test_parity import BATCHES, check_parity
from tests.tiny_detectors import batch


@pytest.fixture(scope='module')
def detector():
    return sparse_rcnn()


@pytest.mark.parametrize('kind', BATCHES)
def test_forward_pass_equals_loss_and_predict(detector, kind):
    check_parity(detector, kind, rtol=1e-5)
    images, samples = batch(**BATCHES[kind])
    adapter = build_adapter(detector.eval(), 'teacher')
    with torch.no_grad():
        forward = adapter.forward_pass(images, samples)
        predicted = adapter.predict(images, copy.deepcopy(samples))
        processed = adapter.post_process(forward, samples)
    for own, sample in zip(processed, predicted):
        for name, value in sample.pred_instances.items():
            assert torch.equal(own[name], value), name
    assert forward.outputs.logits.shape == (2, 2, 12, 3)


def test_the_criterion_on_its_own_assignment_is_the_loss_of_a_stage(detector):
    images, samples = batch()
    adapter = build_adapter(detector.train())
    forward = adapter.forward_pass(images, samples)
    outputs = forward.outputs
    labels, boxes, sizes = ground_truth(samples)
    terms = assign_kd(
        outputs.logits[-1:],
        outputs.boxes[-1:],
        adapter.assign(outputs, samples)[-1:],
        labels,
        boxes,
        criterion=adapter.criterion(),
        image_sizes=sizes,
    )
    losses = adapter.task_loss(forward, samples)
    for name, value in terms.items():
        torch.testing.assert_close(value, losses[f's1.loss_{name}'], rtol=1e-4, atol=1e-5)


def test_a_batch_cannot_count_in_part(detector):
    adapter, (images, samples) = build_adapter(detector), batch()
    with pytest.raises(ValueError, match='SparseRCNN reads the whole batch'):
        adapter.task_loss(adapter.forward_pass(images, samples), samples, [0])
