"""Measurements of one step, for `tools/check.py`."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

#: gradient norm of a distillation loss over that of the task loss that is taken as sane
SANE = (0.05, 2.0)


def synthetic_batch(size: Sequence[int], num_classes: int) -> Dict[str, List[Any]]:
    """Two random images, (H, W) and 7/8 of it, so that one is padded; 3 and 0 objects."""
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for index, count in enumerate((3, 0)):
        height, width = (side * (8 - index) // 8 for side in size)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        start = torch.rand(count, 2, generator=generator) * 0.5
        extent = 0.2 + torch.rand(count, 2, generator=generator) * 0.3
        scale = torch.tensor([width, height, width, height], dtype=torch.float32)
        sample = DetDataSample(
            metainfo=dict(
                img_id=index,
                img_path=f'synthetic {index}',
                img_shape=(height, width),
                ori_shape=(height, width),
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat((start, start + extent), -1) * scale,
            labels=torch.randint(0, num_classes, (count,), generator=generator),
        )
        inputs.append(image)
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def gradient_norms(model: nn.Module, losses: Dict[str, Any]) -> Dict[str, Tuple[float, float]]:
    """Value, and L2 norm of the gradient in the student, of the task loss and each named loss.

    Args:
        model: a `DETRDistill`.
        losses: what its `loss` returned; the graph is kept.

    Returns:
        {'task': (value, norm), 'loss_x_kd': (value, norm), ...}
    """
    groups: Dict[str, List[Tensor]] = {'task': []}
    for name in model.distiller.distill_losses:
        groups[name] = []
    for name, value in losses.items():
        if 'loss' not in name:
            continue
        owner = name.split('.')[0]
        owner = owner if owner in model.distiller.distill_losses else 'task'
        groups[owner] += [v.mean() for v in (value if isinstance(value, list) else [value])]
    parameters = [p for p in model.student.parameters() if p.requires_grad]
    found = {}
    for name, values in groups.items():
        if values:
            total = torch.stack(values).sum()
            grads = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
            square = sum(float(grad.square().sum()) for grad in grads if grad is not None)
            found[name] = (float(total), square**0.5)
    return found


def verdict(norm: float, task_norm: float, weight: Optional[float]) -> str:
    """Whether a gradient is of a sane size beside the task loss's, and a weight that helps."""
    if weight is None or task_norm == 0:
        return ''
    ratio = norm / task_norm
    if ratio == 0:
        return ', no gradient in this batch'
    if SANE[0] <= ratio <= SANE[1]:
        return f', sane ({ratio:.2g} x task)'
    suggested = weight * 0.5 / ratio
    return f', {ratio:.2g} x task: try loss_weight={suggested:.2g} for 0.5 x'


def count_flops(detector: nn.Module, images: Tensor, samples: List[Any]) -> str:
    """Forward GFLOPs per image: products, convolutions, the sampling of deformable attention.

    Deformable attention counts where it runs as PyTorch's grid sampling, that is on the CPU.
    """
    try:
        from torch.utils.flop_counter import FlopCounterMode
    except ImportError:
        return 'n/a (torch < 2.1)'

    def sampling(input_shape: Any, grid_shape: Any, *args: Any, out_shape: Any, **kw: Any) -> int:
        number = 1
        for side in out_shape:
            number *= side
        return 7 * number  # four products and three sums per bilinear value

    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.grid_sampler_2d: sampling}
    )
    training = detector.training
    detector.eval()
    try:
        with counter:
            detector.predict(images, samples)
    finally:
        detector.train(training)
    return f'{counter.get_total_flops() / 1e9 / len(images):.2f}'


class Memory:
    """Peak memory: of the device's allocator on a GPU, else the process's resident set."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.peak = 0

    def text(self) -> str:
        where = 'on the GPU' if self.device.startswith('cuda') else 'resident, whole process'
        return f'{self.peak / 2**20:.0f} MiB {where}'


@contextmanager
def peak_memory(device: str) -> Iterator[Memory]:
    """Measure a block."""
    memory = Memory(device)
    if device.startswith('cuda'):
        torch.cuda.reset_peak_memory_stats()
    yield memory
    if device.startswith('cuda'):
        memory.peak = torch.cuda.max_memory_allocated()
    else:
        import resource  # not on Windows

        memory.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
