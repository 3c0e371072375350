"""Run one training step: feature levels, cost, each loss with its gradient."""

import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional

import torch
from torch import Tensor

from ..detectors import DetectorAdapter, ForwardPass
from ..detectors.levels import describe_strides
from ..distillation.algorithm import DETRDistill
from ..distillation.balance import gradient_norms
from ..losses.feature_kd import FeatureKDLoss
from ..losses.logits_kd import LogitsKDLoss
from .batch import Rows

#: gradient norm of a distillation loss over that of the task loss that is taken as sane
SANE = (0.05, 2.0)
#: share of a step from which on a part is large, and what makes it smaller
LARGE = dict(
    teacher=(
        0.3,
        "model.teacher_pass.autocast='bfloat16'; on a GPU 'float16', and channels_last=True",
    ),
    injected=(0.3, 'fewer decoder stages in the student, or logits and feature losses only'),
    matching=(0.1, "loss_logits_kd.negatives='hard', pairing='last', or fewer queries; Numba"),
)


def check_step(
    model: DETRDistill, batch: Dict[str, Any], device: str, random_teacher: bool
) -> Rows:
    """Run one step: levels, FLOPs, every loss with the norm of its gradient, time and memory.

    The loss weights are judged only with a trained teacher.

    Raises:
        ValueError: a loss is not finite, or one of the distillation losses moves nothing although
            the batch has objects.
    """
    model = model.to(device).train()
    data = model.data_preprocessor(batch, training=True)
    images, samples = data['inputs'], data['data_samples']
    rows = describe_levels(model)
    adapters = (model.student_adapter, model.teacher_adapter)
    flops = [count_flops(adapter, images, samples) for adapter in adapters]
    rows.append(('forward GFLOPs per image', ' / '.join(flops)))

    with peak_memory(device) as memory:
        start = time.perf_counter()
        losses = model.loss(images, samples)
        total, terms = model.parse_losses(losses)
        forward = time.perf_counter() - start
        bad = [name for name, value in terms.items() if not torch.isfinite(torch.as_tensor(value))]
        if bad:
            raise ValueError(f'loss terms are not finite: {bad}')
        norms = gradient_norms(model, losses)
        start = time.perf_counter()
        total.backward()
        backward = time.perf_counter() - start
    pair_losses = model.distiller.pair_losses
    switched_off = [name for name, loss in pair_losses.items() if loss.loss_weight == 0]
    idle = [name for name, (_, norm) in norms.items() if norm == 0 and name not in switched_off]
    if idle and any(len(sample.gt_instances) for sample in samples):
        raise ValueError(f'no gradient of {idle} reaches the student')
    rows.append(('seconds forward + backward', f'{forward:.2f} + {backward:.2f}'))
    rows.append(('peak memory', memory.text()))
    rows += describe_parts(step_parts(model, images, samples))
    judged = 'no verdict with a random teacher' if random_teacher else 'verdict'
    rows.append(('', f'value, gradient norm, {judged}'))
    for name, (value, norm) in norms.items():
        weight = None if random_teacher else getattr(pair_losses.get(name), 'loss_weight', None)
        rows.append((name, f'{value:.4g}, {norm:.4g}{verdict(norm, norms["task"][1], weight)}'))
    rows += [(name, f'{float(value):.4g}') for name, value in terms.items() if '_kd.' in name]
    return rows


def step_parts(model: DETRDistill, images: Tensor, samples: List[Any]) -> Dict[str, float]:
    """Measure the seconds of what a distilled step is made of, forward and backward.

    Returns:
        `teacher`, `student` (its own step), and, where a loss has them, `injected` (the decoder
        pass of all rules) and `matching` (the wait for it at the end, and the logits loss).
    """
    found: Dict[str, float] = {}
    wait: Callable[[], Any] = torch.cuda.synchronize if images.is_cuda else lambda: None

    def timed(part: str, run: Callable[[], Any]) -> Any:
        wait()
        start = time.perf_counter()
        result = run()
        wait()
        found[part] = found.get(part, 0.0) + time.perf_counter() - start
        return result

    def own_step() -> ForwardPass:
        forward = adapter.forward_pass(images, samples)
        total, _ = model.parse_losses(adapter.task_loss(forward, samples))
        total.backward(retain_graph=True)
        return forward

    def injected() -> None:
        outputs = [pair.injected_pass(name) for name in rules]
        weights = adapter.detector.named_parameters()
        inputs = [w for name, w in weights if name.startswith(('decoder', 'bbox_head', 'roi_head'))]
        inputs = [tensor for tensor in (student.state.memory, *inputs) if tensor.requires_grad]
        total = torch.stack([found.logits.sum() + found.boxes.sum() for found in outputs]).sum()
        torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)

    adapter = model.student_adapter
    teacher = timed('teacher', lambda: model.teacher_pass(images, samples))
    student = timed('student', own_step)
    pair = model._pair(student, teacher, samples)
    rules = model.distiller.active_injections()
    if rules:
        timed('injected', injected)
    for loss in model.distiller.pair_losses.values():
        if isinstance(loss, LogitsKDLoss):
            timed('matching', loss.start(pair))
    return found


def describe_parts(parts: Dict[str, float]) -> Rows:
    """Say what a step is made of, in per cent, and what to change where a part is large."""
    total = sum(parts.values())
    shares = {name: seconds / total for name, seconds in parts.items()}
    text = ', '.join(f'{name} {share:.0%}' for name, share in shares.items())
    large = [
        f'{name} is large: {advice}'
        for name, (limit, advice) in LARGE.items()
        if shares.get(name, 0) > limit
    ]
    return [('a step is made of', text), *(('', advice) for advice in large)]


def describe_levels(model: DETRDistill) -> Rows:
    """Describe the strides of the feature levels of both detectors, and which are distilled."""
    if not any(isinstance(loss, FeatureKDLoss) for loss in model.distiller.pair_losses.values()):
        return []
    strides = model.student_adapter.strides, model.teacher_adapter.strides
    return [('feature strides', describe_strides(*strides))]


def verdict(norm: float, task_norm: float, weight: Optional[float]) -> str:
    """Compare a gradient with the task loss's, and suggest a weight if it is far off."""
    if weight is None or task_norm == 0:
        return ''
    ratio = norm / task_norm
    if ratio == 0:
        return ', no gradient in this batch'
    if SANE[0] <= ratio <= SANE[1]:
        return f', sane ({ratio:.2g} x task)'
    suggested = weight * 0.5 / ratio
    return f', {ratio:.2g} x task: try loss_weight={suggested:.2g} for 0.5 x'


def count_flops(adapter: DetectorAdapter, images: Tensor, samples: List[Any]) -> str:
    """Count forward GFLOPs per image: products, convolutions, sampling of deformable attention.

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
    training = adapter.detector.training
    adapter.detector.eval()
    try:
        with counter:
            adapter.forward_pass(images, samples)
    finally:
        adapter.detector.train(training)
    return f'{counter.get_total_flops() / 1e9 / len(images):.2f}'


class Memory:
    """The peak memory of the allocator on a GPU, of the process's resident set elsewhere."""

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
