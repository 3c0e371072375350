"""Keep the distillation losses at given shares of the task loss."""

import math
from typing import Any, Dict

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook

from ..checkpoints.read import unwrap_model
from ..distillation.balance import measure
from ..registry import register

KEY = 'distillation_strengths'


@register('HOOKS')
class AdaptiveLossWeightHook(Hook):
    """Set each distillation loss's `loss_weight` so that it has a given share of the task loss.

    Every `interval` iterations the gradient norms of the task loss and of each distillation loss
    in the student are measured on the batch of that iteration, in a forward and backward pass of
    their own that leaves the training as it is; the first one before the first iteration. The norm
    of a loss at weight 1 over that of the task loss is averaged over processes and, as a
    logarithm, over measurements. Processes always have equal weights, and a resumed training
    those that it would have had. Factors of a `LossWeightScheduleHook` multiply the weights.

    Source: none in DETRDistill; RT-DETRv4 (2025) lets a loss weight follow the share of the
    gradient.

    Logged in each iteration as `x_kd.weight`.

    Args:
        shares: by name of loss, the wanted ratio to the task loss, above 0. `dict(loss_logits_kd=
            0.5)` lets it pull half as strongly as the detector's own losses.
        by: 'gradient' compares gradient norms, 'loss' values.
        interval: iterations between two measurements.
        momentum: share of the earlier measurements in the average, in [0, 1).

    Raises:
        ValueError: no share, a share that is not above 0, or another option out of its range;
            before training, a loss of weight 0, which cannot be measured.
        KeyError (before training): no such distillation loss of this package.
    """

    def __init__(
        self,
        shares: Dict[str, float],
        by: str = 'gradient',
        interval: int = 100,
        momentum: float = 0.9,
    ) -> None:
        if not shares or min(shares.values()) <= 0:
            raise ValueError(f'shares must be above 0, by name of loss, got {shares}')
        if by not in ('gradient', 'loss'):
            raise ValueError(f"by must be 'gradient' or 'loss', got {by!r}")
        if interval < 1 or not 0 <= momentum < 1:
            raise ValueError(
                f'interval must be at least 1 and momentum in [0, 1), got {interval}, {momentum}'
            )
        self.shares = dict(shares)
        self.by, self.interval, self.momentum = by, interval, momentum
        #: by name, logarithm of a loss at weight 1 over the task loss, averaged
        self.strengths: Dict[str, float] = {}

    def before_train(self, runner: Any) -> None:
        """Check the names, and take the strengths of a resumed training."""
        losses = unwrap_model(runner.model).distiller.pair_losses
        for name in self.shares:
            if name not in losses:
                raise KeyError(f'no distillation loss {name!r}; there are {list(losses)}')
            if losses[name].loss_weight == 0:
                raise ValueError(f'{name} has loss_weight 0: it cannot be measured')
        self.strengths = dict(runner.message_hub.runtime_info.get(KEY, {}))

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        model = unwrap_model(runner.model)
        active = model.distiller.active and not model.distillation_stopped
        if active and runner.iter % self.interval == 0:
            with runner.optim_wrapper.optim_context(runner.model):
                found = measure(model, data_batch, self.by)
            self._average(model.distiller, found)
            runner.message_hub.update_info(KEY, dict(self.strengths))
        self._set_weights(runner)

    def _average(self, distiller: Any, found: Dict[str, float]) -> None:
        """Take a measurement into the average; one without a task or distillation loss is not."""
        names = ['task', *self.shares]
        values = torch.tensor([found.get(name, 0.0) for name in names], dtype=torch.float64)
        all_reduce(values, op='mean')
        task, *others = values.tolist()
        for name, value in zip(self.shares, others):
            weight = distiller.pair_losses[name].loss_weight * distiller.scale(name)
            if min(task, value, weight) > 0 and math.isfinite(task + value):
                measured = math.log(value / task / weight)
                before = self.strengths.get(name, measured)
                self.strengths[name] = self.momentum * before + (1 - self.momentum) * measured

    def _set_weights(self, runner: Any) -> None:
        losses = unwrap_model(runner.model).distiller.pair_losses
        for name, share in self.shares.items():
            if name in self.strengths:
                losses[name].loss_weight = share * math.exp(-self.strengths[name])
            stem = name[len('loss_') :]
            runner.message_hub.update_scalar(f'train/{stem}.weight', losses[name].loss_weight)
