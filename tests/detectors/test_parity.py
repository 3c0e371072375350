"""The adapter's stages in a row are the detector's own forward pass, bit for bit."""

import copy

import pytest
import torch

from mmdet_detrdistill.detectors import build_adapter
from tests.tiny_detectors import VARIANTS, batch, build, tiny
from tests.trainings import small_detector

BATCHES = {
    'padded': dict(padded=True),
    'unpadded': dict(padded=False),
    'one_empty': dict(padded=True, empty='one'),
    'all_empty': dict(padded=True, empty='all'),
}


@pytest.fixture(scope='module', params=VARIANTS)
def detector(request):
    return tiny(request.param)


@pytest.mark.parametrize('kind', BATCHES)
def test_forward_pass_equals_loss(detector, kind):
    """Same loss names and values, same gradients, with dropout and denoising under one seed."""
    check_parity(detector, kind)


@pytest.mark.parametrize('variant', VARIANTS)
def test_one_decoder_layer(variant):
    check_parity(tiny(variant, num_layers=1), 'padded')


def test_ddq_of_one_decoder_layer_is_trained_only():
    """MMDetection's own prediction stops."""
    detector = build(small_detector('ddq', num_layers=1)).eval()
    with pytest.raises(IndexError):
        detector.predict(*batch())
    with pytest.raises(ValueError, match='student: MMDetection cannot predict with a DDQDETR'):
        build_adapter(detector).check_num_predictions()


def check_parity(detector, kind, rtol=0):
    """Losses bit for bit; gradients to `rtol`, where their sums have another order."""
    images, samples = batch(**BATCHES[kind])
    own, staged = copy.deepcopy(detector).train(), copy.deepcopy(detector).train()
    torch.manual_seed(1)
    expected = own.loss(images, copy.deepcopy(samples))
    torch.manual_seed(1)
    adapter = build_adapter(staged)
    losses = adapter.task_loss(adapter.forward_pass(images, samples), samples)

    assert list(losses) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            losses[name], value, rtol=0, atol=0, msg=lambda m, n=name: f'{n}: {m}'
        )
    total_of(own, expected).backward()
    total_of(staged, losses).backward()
    theirs = dict(own.named_parameters())
    for name, parameter in staged.named_parameters():
        grad = theirs[name].grad
        assert (parameter.grad is None) == (grad is None), name
        if grad is not None:
            torch.testing.assert_close(parameter.grad, grad, rtol=rtol, atol=rtol, msg=name)


def total_of(model, losses):
    return model.parse_losses(losses)[0]
