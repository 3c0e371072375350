"""What must hold on a GPU as far as a second device without hardware can show it.

    pytest tests/ghost/suite.py

`tests/test_ghost.py` runs this in a process of its own.
"""

import sys

import pytest
import torch

from mmdet_detrdistill import DETRDistill
from tests.ghost import device
from tests.tiny_detectors import VARIANTS, batch, tiny

if not device.AVAILABLE:
    pytest.skip('PyTorch before 2.10 has no backend in Python', allow_module_level=True)
LIBRARIES = device.register()
LOSSES = {
    'loss_logits_kd': 'LogitsKDLoss',
    'loss_feature_kd': 'FeatureKDLoss',
    'loss_assign_kd': 'AssignKDLoss',
    'loss_aligned_kd': 'AlignedKDLoss',
}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Parameters keep their identity in `.to`; MMCV's NMS, which DDQ calls, gets CPU tensors."""
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    extension = sys.modules['mmcv.ops.nms'].ext_module
    original = extension.nms

    def nms(boxes, scores, **options):
        found = original(boxes.host, scores.host, **options)
        return device.GhostTensor(found)

    def either(boxes, scores, **options):
        call = nms if isinstance(boxes, device.GhostTensor) else original
        return call(boxes, scores, **options)

    monkeypatch.setattr(extension, 'nms', either)
    yield
    torch.__future__.set_swap_module_params_on_conversion(swap)


def distill(variant, preset='paper', losses=tuple(LOSSES), student=None, **options):
    return DETRDistill(
        architecture=student or tiny(variant, seed=1),
        teacher=tiny(variant, seed=2),
        distiller=dict(
            type='DETRDistiller',
            distill_losses={name: dict(type=LOSSES[name], preset=preset) for name in losses},
        ),
        **options,
    ).train()


def step(model, images, samples):
    """Losses and gradients, on the CPU."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    losses = model.loss(images, samples)
    total, _ = model.parse_losses(losses)
    total.backward()
    tensors = {name: torch.stack(v) if isinstance(v, list) else v for name, v in losses.items()}
    tensors.update(
        {f'gradient of {n}': p.grad for n, p in model.named_parameters() if p.grad is not None}
    )
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def moved(images, samples):
    return images.to('ghost'), [sample.to('ghost') for sample in samples]


def check_step(model, images, samples):
    expected = step(model, images, samples)
    model.to('ghost')
    found = step(model, *moved(images, samples))
    assert list(found) == list(expected)
    unequal = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not unequal
    return expected


@pytest.mark.parametrize('preset', ['paper', 'released'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_values_and_gradients_are_those_of_the_cpu(variant, preset):
    found = check_step(distill(variant, preset), *batch())
    assert all(any(name in key for key in found) for name in LOSSES)
