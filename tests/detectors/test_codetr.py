"""Co-DETR as a teacher, on a stand-in with its interface."""

import copy

import pytest
import torch

from mmdet_detrdistill.detectors import build_adapter
from tests.detectors.test_parity import BATCHES
from tests.stand_ins.codetr import codetr
from tests.tiny_detectors import batch, tiny


@pytest.mark.parametrize('kind', BATCHES)
@torch.no_grad()
def test_outputs_are_those_of_predict_and_of_the_dino_inside(kind):
    images, samples = batch(**BATCHES[kind])
    detector = codetr(seed=3).eval()
    adapter = build_adapter(detector, 'teacher')
    forward = adapter.forward_pass(images, samples)
    state, outputs = forward
    reference = build_adapter(tiny('dino', seed=3).eval()).forward_pass(images, samples)
    for own, other in (
        (outputs.logits, reference.outputs.logits),
        (outputs.boxes, reference.outputs.boxes),
        (outputs.hidden_states, reference.outputs.hidden_states),
        (state.memory, reference.state.memory),
        *(
            (state.decoder_inputs[n], reference.state.decoder_inputs[n])
            for n in ('query', 'reference_points')
        ),
    ):
        torch.testing.assert_close(own, other, rtol=0, atol=0)
    if reference.state.padding_mask is not None:
        assert torch.equal(state.padding_mask, reference.state.padding_mask)
    assert state.sizes == reference.state.sizes
    predicted = adapter.predict(images, copy.deepcopy(samples))
    for own, sample in zip(adapter.post_process(forward, samples), predicted):
        for name, value in sample.pred_instances.items():
            assert torch.equal(own[name], value), name


def test_nothing_is_left_on_the_detector():
    detector = codetr().eval()
    with torch.no_grad():
        build_adapter(detector, 'teacher').forward_pass(*batch())
    assert not detector.query_head.transformer._forward_hooks


def test_its_own_assignment_is_that_of_the_query_head():
    images, samples = batch()
    adapter = build_adapter(codetr(seed=3).eval(), 'teacher')
    reference = build_adapter(tiny('dino', seed=3).eval())
    with torch.no_grad():
        found, expected = (
            side.assign(side.forward_pass(images, samples).outputs, samples)
            for side in (adapter, reference)
        )
    assert torch.equal(found, expected)


def test_it_is_no_student():
    with pytest.raises(TypeError, match='only be a teacher'):
        build_adapter(codetr())


def test_another_detector_without_its_query_head_is_refused_by_name():
    detector = codetr()
    detector.query_head = None
    with pytest.raises(TypeError, match=r'query_head\.forward'):
        build_adapter(detector, 'teacher')
