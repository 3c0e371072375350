"""What only a GPU shows: its kernels' values, pinned copies, fp16, PyTorch's own count of waits.

`benchmarks/gpu.py` runs this. Without a GPU, `tests/ghost` has the values of a second device, and
the waits with the line of each.
"""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmdet_detrdistill import DETRDistill
from mmdet_detrdistill.functional import gpu_assignment
from mmdet_detrdistill.functional.matching import match
from mmdet_detrdistill.functional.transfer import to_device, to_host
from tests.tiny_detectors import VARIANTS, batch, tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
#: costs of the ground truth's assignment and of the matching, and the look for NaN
MOST_WAITS = 3
LOSSES = {
    'loss_logits_kd': 'LogitsKDLoss',
    'loss_feature_kd': 'FeatureKDLoss',
    'loss_assign_kd': 'AssignKDLoss',
}


def distillation(variant, preset='paper', class_map=None):
    """Without dropout, whose random numbers are the device's."""
    losses = {name: dict(type=kind, preset=preset) for name, kind in LOSSES.items()}
    detectors = tiny(variant, seed=1), tiny(variant, seed=2)
    distiller = dict(type='DETRDistiller', distill_losses=losses)
    model = DETRDistill(*detectors, distiller, class_map=class_map).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model


def on_gpu(images, samples):
    return images.cuda(), [sample.to('cuda') for sample in samples]


def step(model, images, samples):
    """Distillation losses, and the norm of their gradient in the student; on the CPU."""
    model.zero_grad(set_to_none=True)
    losses = {name: v for name, v in model.loss(images, samples).items() if '_kd' in name}
    sum(value for name, value in losses.items() if name.startswith('loss')).backward()
    grads = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    found = {**losses, 'gradient': torch.stack(grads).norm()}
    return {name: value.detach().float().cpu() for name, value in found.items()}


@pytest.mark.parametrize('preset', ['paper', 'released'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_values_are_those_of_the_cpu(variant, preset, monkeypatch):
    """But for rounding: the student's own loss draws denoising queries and is left out."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    model = distillation(variant, preset)
    expected = step(model, *batch())
    found = step(model.cuda(), *on_gpu(*batch()))
    assert_close(found, expected, rtol=1e-2, atol=1e-3)


def test_float16_is_close_to_float32():
    model = distillation('deformable').cuda()
    expected = step(model, *on_gpu(*batch()))
    with torch.autocast('cuda', torch.float16):
        found = step(model, *on_gpu(*batch()))
    totals = [sum(v for n, v in run.items() if n.startswith('loss')) for run in (found, expected)]
    assert_close(*totals, rtol=0.1, atol=0)
    assert found['gradient'].isfinite()


def test_arrays_arrive_whole():
    """Through pinned memory, while the device goes on."""
    wide, mask = torch.rand(500, 300, device='cuda'), torch.rand(7, 9, device='cuda') > 0.5
    wait = to_host([wide, mask])
    assert_close([torch.from_numpy(array) for array in wait()], [wide.cpu(), mask.cpu()])
    values = np.arange(1000)
    moved = to_device(values, wide.device)
    values[:] = 0
    assert torch.equal(moved.cpu(), torch.arange(1000))


def test_the_solver_on_the_gpu_finds_the_optimum():
    """Costs without ties: the assignment is that of the CPU."""
    pytest.importorskip('torch_linear_assignment')
    cost = torch.rand(6, 2, 300, 300, generator=torch.Generator().manual_seed(0))
    keep = torch.rand(6, 2, 300) > 0.3
    assert gpu_assignment.solves(cost.cuda())
    for masks in ((None, None), (None, keep), (keep, keep)):
        found = match(cost.cuda(), *(mask if mask is None else mask.cuda() for mask in masks))
        assert torch.equal(found.cpu(), match(cost, *masks))


@pytest.mark.parametrize('class_map', [None, [2, 0, -1]])
def test_synchronisations_on_a_gpu(class_map, monkeypatch):
    """What a distilled step adds to the student's, the teacher's pass and the injected decoder.

    With the solver on the CPU: that on the GPU waits for itself.
    """
    monkeypatch.setattr(gpu_assignment, 'batch_linear_assignment', None)
    model = distillation('deformable', class_map=class_map).cuda()
    images, samples = on_gpu(*batch(padded=False))

    def waits(run):
        run()
        torch.cuda.set_sync_debug_mode('warn')
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter('always')
                run()
        finally:
            torch.cuda.set_sync_debug_mode('default')
        return sum('synchroniz' in str(warning.message) for warning in caught)

    def parts():
        teacher = model.teacher_pass(images, samples)
        student = model.student_adapter.forward_pass(images, samples)
        model.student_adapter.task_loss(student, samples)
        (name,) = model.distiller.injections
        model._pair(student, teacher, samples).injected_pass(name)

    assert waits(lambda: model.loss(images, samples)) - waits(parts) <= MOST_WAITS
