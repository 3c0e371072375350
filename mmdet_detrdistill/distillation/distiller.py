"""What is compared: the named distillation losses of a pair of detectors."""

import inspect
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from mmdet.registry import MODELS
from mmrazor.models.distillers import ConfigurableDistiller
from torch import Tensor, nn

from ..detectors import DetectorAdapter
from ..detectors.pair import DistillPair
from ..losses import DistillLoss
from ..losses.injected_pass import InjectedLoss
from ..losses.injection import build_injection
from ..registry import register

LOSS_NAMES = ('loss_logits_kd', 'loss_feature_kd', 'loss_assign_kd', 'loss_aligned_kd')


@register('MODELS')
class DETRDistiller(ConfigurableDistiller):
    """The losses of DETRDistill, with any MMRazor loss beside them.

    Args:
        distill_losses: configs by name. `loss_logits_kd`, `loss_feature_kd`, `loss_assign_kd` and
            `loss_aligned_kd` receive the `DistillPair`; other names are MMRazor's and need an entry
            in `loss_forward_mappings`. None switches a loss off.
        kwargs: recorders, connectors, deliveries and mappings of MMRazor's distiller.

    Raises:
        ValueError: a name that is neither, or an option that the loss does not have; both list the
            valid ones.
    """

    def __init__(
        self, distill_losses: Optional[Dict[str, Optional[Dict[str, Any]]]] = None, **kwargs: Any
    ) -> None:
        configs = distill_losses or {}
        mapped = tuple(kwargs.get('loss_forward_mappings') or {})
        for name, config in configs.items():
            if name not in LOSS_NAMES + mapped:
                raise ValueError(
                    f'distill_losses: unknown name {name!r}; valid are {LOSS_NAMES} and names in '
                    f'loss_forward_mappings {mapped}'
                )
            if config is not None:
                _check_options(name, config)
        super().__init__(
            distill_losses={name: config for name, config in configs.items() if config is not None},
            **kwargs,
        )
        self.injections = nn.ModuleDict()
        self._scales: Dict[str, float] = {}

    @property
    def pair_losses(self) -> Dict[str, DistillLoss]:
        """The losses that receive a `DistillPair`, by name, in the config's order."""
        losses = self.distill_losses.items()
        return {name: loss for name, loss in losses if isinstance(loss, DistillLoss)}

    @property
    def active(self) -> bool:
        """Whether any loss is left that needs the teacher."""
        return any(self.scale(name) for name in self.distill_losses)

    def scale(self, name: str) -> float:
        """Factor of a loss, 1 unless a hook has set it; 0 skips the loss and what only it needs."""
        return self._scales.get(name, 1.0)

    def set_scale(self, name: str, scale: float) -> None:
        """Set the factor of a loss (for hooks).

        Raises:
            KeyError: no such loss in `distill_losses`.
        """
        if name not in self.distill_losses:
            raise KeyError(f'no distillation loss {name!r}; there are {list(self.distill_losses)}')
        self._scales[name] = float(scale)

    def prepare(self, student: DetectorAdapter, teacher: DetectorAdapter) -> None:
        """Make what depends on both detectors: projections of the losses, injection rules.

        Raises:
            ValueError: a loss or every injection rule refuses the pair.
        """
        built: List[Tuple[Dict[str, Any], str]] = []
        for loss in self.pair_losses.values():
            loss.prepare(student, teacher)
            if not isinstance(loss, InjectedLoss):
                continue
            config = loss.injection_config
            name = next((name for other, name in built if other == config), None)
            if name is None:
                rule = build_injection(config, student, teacher)
                name = f'{type(rule).__name__}_{len(built)}'
                self.injections[name] = rule
                built.append((config, name))
            loss.injection_name = name

    @contextmanager
    def recording(self, side: str) -> Iterator[None]:
        """Run MMRazor's recorders and deliveries around the forward pass of a side.

        Args:
            side: 'student' or 'teacher'.
        """
        self.set_deliveries_override(side == 'student')
        recorders = self.student_recorders if side == 'student' else self.teacher_recorders
        with recorders, self.deliveries:
            yield

    def assigned_stages(self, num_student: int, num_teacher: int) -> Tuple[int, ...]:
        """Teacher stages whose assignment some active loss reads, so that one call makes them all.

        Args:
            num_student: decoder stages of the student; likewise `num_teacher`.
        """
        active = [loss for name, loss in self.pair_losses.items() if self.scale(name)]
        stages = (loss.assigned_stages(num_student, num_teacher) for loss in active)
        return tuple(sorted({stage for group in stages for stage in group}))

    def compute_distill_losses(self, pair: Optional[DistillPair] = None) -> Dict[str, Tensor]:
        """Compute all losses of a batch.

        Args:
            pair: both forward passes; None = the teacher was not run, and no loss is computed.

        Returns:
            0-d tensors. A loss named `loss_x` gives `loss_x`, or `loss_x.term` per term, and its
            statistics as `x.term`, which MMEngine logs and does not add up.

        Raises:
            ValueError: NaN or Inf in the teacher's pass, or where one keeps the student's from
                being matched; names what, where and the image.
        """
        try:
            found = self._compute(pair)
        except ValueError as error:
            bad = None if pair is None else pair.name_non_finite()
            if bad is None:
                raise
            raise ValueError(bad) from error
        # Losses that match nothing let NaN pass. The student's own is left to gradient scaling.
        if found and not torch.isfinite(torch.stack([v.detach() for v in found.values()])).all():
            bad = None if pair is None else pair.name_non_finite(student=False)
            if bad is not None:
                raise ValueError(bad)
        return found

    def _compute(self, pair: Optional[DistillPair]) -> Dict[str, Tensor]:
        found: Dict[str, Tensor] = {}
        for name, loss in self.distill_losses.items():
            scale = self.scale(name)
            if pair is None or scale == 0:
                found.update(self._disabled(name))
            elif isinstance(loss, DistillLoss):
                for term, value in loss(pair).items():
                    is_statistic = term in loss.statistics
                    stem = name[len('loss_') :] if is_statistic else name
                    found[f'{stem}.{term}' if term else stem] = (
                        1 if is_statistic else scale
                    ) * value
            else:  # MMRazor's, from its recorders
                mapping = self.loss_forward_mappings[name].items()
                found[name] = scale * loss(**{key: self.get_record(**at) for key, at in mapping})
        return found

    def _disabled(self, name: str) -> Dict[str, Tensor]:
        """Zero times the parameters of a disabled loss: in DDP none of them may go unused."""
        loss = self.distill_losses[name]
        modules = [loss]
        if isinstance(loss, InjectedLoss):
            modules.append(self.injections[loss.injection_name])
        connectors = (
            at.get('connector') for at in self.loss_forward_mappings.get(name, {}).values()
        )
        modules += [self.connectors[connector] for connector in connectors if connector]
        sums = [parameter.sum() for module in modules for parameter in module.parameters()]
        return {name: 0 * torch.stack(sums).sum()} if sums else {}


def _check_options(name: str, config: Dict[str, Any]) -> None:
    """ValueError when `config` holds an option that its loss does not take."""
    loss = MODELS.get(config.get('type', ''))
    if not (inspect.isclass(loss) and issubclass(loss, DistillLoss)):
        return
    valid = [option for option in inspect.signature(loss).parameters if option != 'self']
    unknown = [option for option in config if option not in (*valid, 'type', '_scope_')]
    if unknown:
        raise ValueError(f'distill_losses.{name}: unknown option {unknown}; valid are {valid}')
