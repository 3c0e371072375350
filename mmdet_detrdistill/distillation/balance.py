"""How strongly each distillation loss pulls on the student, beside the task loss."""

import random
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple

import torch
from torch import Tensor, nn


def loss_sums(model: Any, losses: Dict[str, Any]) -> Dict[str, Tensor]:
    """Add up the terms of the task loss and of each distillation loss.

    Args:
        model: a `DETRDistill`.
        losses: what its `loss` returned.

    Returns:
        0-d by name: 'task', and each distillation loss that has terms.
    """
    groups: Dict[str, List[Tensor]] = {
        name: [] for name in ('task', *model.distiller.distill_losses)
    }
    for name, value in losses.items():
        owner = name.split('.')[0]
        if 'loss' in name:
            group = groups[owner if owner in groups else 'task']
            group += [v.mean() for v in (value if isinstance(value, list) else [value])]
    return {name: torch.stack(values).sum() for name, values in groups.items() if values}


def gradient_norms(model: Any, losses: Dict[str, Any]) -> Dict[str, Tuple[float, float]]:
    """Value, and L2 norm of the gradient in the student, of the task loss and each named loss.

    Args:
        model: a `DETRDistill`.
        losses: what its `loss` returned; the graph is kept.

    Returns:
        {'task': (value, norm), 'loss_x_kd': (value, norm), ...}
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    before = [p.grad for p in parameters]
    found = {}
    try:
        for name, total in loss_sums(model, losses).items():
            for parameter in parameters:
                parameter.grad = None
            # not torch.autograd.grad, which a backbone with activation checkpointing refuses
            total.backward(retain_graph=True)
            grads = (p.grad for p in model.student.parameters() if p.grad is not None)
            square = sum(float(grad.square().sum()) for grad in grads)
            found[name] = (float(total.detach()), square**0.5)
    finally:
        for parameter, grad in zip(parameters, before):
            parameter.grad = grad
    return found


def measure(model: Any, batch: Any, by: str = 'gradient') -> Dict[str, float]:
    """Measure the task loss and each distillation loss on a batch; the training is not disturbed.

    Args:
        model: a `DETRDistill` in training mode.
        batch: as the data loader gives it.
        by: 'gradient', the norm of the gradient in the student, or 'loss', the value.

    Returns:
        By name, as in `gradient_norms`, at the present weights and factors.
    """
    with undisturbed(model):
        data = model.data_preprocessor(batch, training=True)
        found = gradient_norms(model, model.loss(data['inputs'], data['data_samples']))
    return {name: norm if by == 'gradient' else value for name, (value, norm) in found.items()}


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Leave buffers (statistics of batch norms) and random numbers as they were before."""
    buffers = [buffer.clone() for buffer in model.buffers()]
    devices = {p.device.index for p in model.parameters() if p.device.type == 'cuda'}
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(state)
        for buffer, before in zip(model.buffers(), buffers):
            buffer.copy_(before)
