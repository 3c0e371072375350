"""The distiller: the named distillation losses of a pair of detectors."""

import math
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, cast

import torch
from mmrazor.models.distillers import ConfigurableDistiller
from torch import Tensor, nn

from ..detectors import DetectorAdapter
from ..detectors.pair import DistillPair
from ..functional.stages import scaled
from ..losses import AlignedKDLoss, AssignKDLoss, DistillLoss, FeatureKDLoss, LogitsKDLoss
from ..losses.injected_pass import InjectedLoss
from ..losses.injection import InjectionRule, build_injection
from ..registry import class_of, register

#: waits for what a loss has started, and gives its terms
Terms = Callable[[], Dict[str, Tensor]]
#: the names that our own losses go by; a `DistillLoss` of one's own takes any `loss_*`
PAIR_LOSSES = dict(
    loss_logits_kd=LogitsKDLoss,
    loss_feature_kd=FeatureKDLoss,
    loss_assign_kd=AssignKDLoss,
    loss_aligned_kd=AlignedKDLoss,
)


@register('MODELS')
class DETRDistiller(ConfigurableDistiller):
    """The losses of DETRDistill, with any MMRazor loss beside them.

    Args:
        distill_losses: configs by name. A `DistillLoss`, ours or a registered one of your own,
            receives the `DistillPair`; any other loss is MMRazor's and needs an entry in
            `loss_forward_mappings`. None switches a loss off.
        kwargs: recorders, connectors, deliveries and mappings of MMRazor's distiller.

    Raises:
        ValueError: an entry that is no loss, that nothing would reach, or with an option that the
            loss does not take.
    """

    def __init__(
        self, distill_losses: Optional[Dict[str, Optional[Dict[str, Any]]]] = None, **kwargs: Any
    ) -> None:
        configs = {} if distill_losses is None else distill_losses
        if not isinstance(configs, dict):
            raise ValueError(f'distill_losses must be a dict of losses by name, got {configs!r}')
        mapped = tuple(kwargs.get('loss_forward_mappings') or {})
        super().__init__(
            distill_losses={
                name: _checked_entry(name, config, mapped)
                for name, config in configs.items()
                if config is not None
            },
            **kwargs,
        )
        self.injections = nn.ModuleDict()
        self._scales: Dict[str, float] = {}

    @property
    def pair_losses(self) -> Dict[str, DistillLoss]:
        """Return the losses that receive a `DistillPair`, by name, in the config's order."""
        losses = self.distill_losses.items()
        return {name: loss for name, loss in losses if isinstance(loss, DistillLoss)}

    @property
    def active(self) -> bool:
        """Tell whether any loss needs the teacher."""
        return any(self.scale(name) for name in self.distill_losses)

    def scale(self, name: str) -> float:
        """Return the factor of a loss, 1 unless a hook has set it; 0 skips the loss."""
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
            for config in loss.injection_configs:
                name = next((name for other, name in built if other == config), None)
                if name is None:
                    rule = build_injection(config, student, teacher)
                    name = f'{type(rule).__name__}_{len(built)}'
                    self.injections[name] = rule
                    built.append((config, name))
                loss.follow(name, cast(InjectionRule, self.injections[name]))

    def active_injections(self) -> Dict[str, InjectionRule]:
        """Return the rules that an active loss follows, by name."""
        losses = [loss for name, loss in self.pair_losses.items() if self.scale(name)]
        followed = [loss.rules for loss in losses if isinstance(loss, InjectedLoss)]
        return {name: rule for rules in followed for name, rule in rules.items()}

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
        """Return the teacher stages whose assignment an active loss reads.

        Args:
            num_student: decoder stages of the student; likewise `num_teacher`.
        """
        active = [loss for name, loss in self.pair_losses.items() if self.scale(name)]
        stages = (loss.assigned_stages(num_student, num_teacher) for loss in active)
        return tuple(sorted({stage for group in stages for stage in group}))

    def start(self, pair: DistillPair) -> Dict[str, Terms]:
        """Start what losses have the CPU do in the background, such as the matching.

        Args:
            pair: both forward passes.

        Returns:
            By name, for `compute_distill_losses`.

        Raises:
            ValueError: NaN or Inf in the teacher's pass; names what, where and the image.
        """
        with _naming_non_finite(pair):
            started = {
                name: loss.start(pair)
                for name, loss in self.pair_losses.items()
                if self.scale(name)
            }
        return {name: terms for name, terms in started.items() if terms is not None}

    def compute_distill_losses(
        self, pair: Optional[DistillPair] = None, started: Optional[Dict[str, Terms]] = None
    ) -> Dict[str, Tensor]:
        """Compute all losses of a batch.

        Args:
            pair: both forward passes; None = the teacher was not run, and no loss is computed.
            started: what `start` gave for the pair; read last, when the other losses are queued.

        Returns:
            0-d tensors. A loss named `loss_x` gives `loss_x`, or `loss_x.term` per term, and its
            statistics as `x.term`, which MMEngine logs and does not add up.

        Raises:
            ValueError: NaN or Inf in the teacher's pass, or where one keeps the student's from
                being matched; names what, where and the image.
        """
        if pair is None:
            names = list(self.distill_losses)
            return {key: v for name in names for key, v in self._disabled(name).items()}
        started = self.start(pair) if started is None else started
        with _naming_non_finite(pair):
            late = sorted(self.distill_losses, key=lambda name: name in started)
            terms = {name: self._terms(name, pair, started.get(name)) for name in late}
        found = {key: v for name in self.distill_losses for key, v in terms[name].items()}
        # Losses that match nothing let NaN pass. The student's own is left to gradient scaling.
        if found and not math.isfinite(torch.stack([v.detach() for v in found.values()]).sum()):
            bad = pair.name_non_finite(student=False)
            if bad is not None:
                raise ValueError(bad)
        return found

    def _terms(self, name: str, pair: DistillPair, started: Optional[Terms]) -> Dict[str, Tensor]:
        """The terms of one loss under their log keys, times its factor."""
        loss, scale = self.distill_losses[name], self.scale(name)
        if scale == 0:
            return self._disabled(name)
        if not isinstance(loss, DistillLoss):  # MMRazor's, from its recorders
            mapping = self.loss_forward_mappings[name].items()
            value = loss(**{key: self.get_record(**at) for key, at in mapping})
            return {name: scaled(value, scale)}
        found = {}
        for term, value in (loss(pair) if started is None else started()).items():
            is_statistic = term in loss.statistics
            stem = name[len('loss_') :] if is_statistic else name
            key = f'{stem}.{term}' if term else stem
            found[key] = value if is_statistic else scaled(value, scale)
        return found

    def _disabled(self, name: str) -> Dict[str, Tensor]:
        """Return zero times the parameters of a disabled loss, since DDP needs all of them used."""
        loss = self.distill_losses[name]
        modules = [loss]
        if isinstance(loss, InjectedLoss):
            modules += loss.rules.values()
        connectors = (
            at.get('connector') for at in self.loss_forward_mappings.get(name, {}).values()
        )
        modules += [self.connectors[connector] for connector in connectors if connector]
        sums = [parameter.sum() for module in modules for parameter in module.parameters()]
        return {name: 0 * torch.stack(sums).sum()} if sums else {}


@contextmanager
def _naming_non_finite(pair: DistillPair) -> Iterator[None]:
    """Say of a ValueError which tensor of the pair is NaN or Inf, where one is."""
    try:
        yield
    except ValueError as error:
        bad = pair.name_non_finite()
        if bad is None:
            raise
        raise ValueError(bad) from error


def _checked_entry(name: str, config: Any, mapped: Sequence[str]) -> Dict[str, Any]:
    """Check the config of a loss and return it with its type as a class.

    Raises:
        ValueError: names the entry, what is wrong and what is valid.
    """
    where = f'distill_losses.{name}'
    loss = class_of('MODELS', config) if isinstance(config, dict) else None
    if not isinstance(loss, type):
        unknown = isinstance(config, dict) and config.get('type')
        problem = f'no registered {unknown!r}' if unknown else f'got {config!r}'
        raise ValueError(f'{where} must be None or a dict with the `type` of a loss: {problem}')
    if not issubclass(loss, DistillLoss):
        if name not in mapped:
            raise ValueError(
                f'{where}: {loss.__name__} is no DistillLoss and has no entry in '
                f'loss_forward_mappings {tuple(mapped)}, so that nothing would reach it'
            )
        return {**config, 'type': loss}
    own = next((own for own, kind in PAIR_LOSSES.items() if kind is loss), name)
    if own != name:
        raise ValueError(f'{where}: a {loss.__name__} goes by the name {own!r}')
    if name in mapped or not name.startswith('loss_'):
        raise ValueError(f'{where}: a DistillLoss is named loss_* and has no loss_forward_mappings')
    valid = loss.option_names()
    unknown = [option for option in config if option not in (*valid, 'type', '_scope_')]
    if unknown:
        raise ValueError(f'{where}: unknown option {unknown}; valid are {valid}')
    given = config.get('injection', dict(type='auto'))
    several = getattr(loss, 'several_rules', False)
    rules = given if several and isinstance(given, (list, tuple)) and given else [given]
    if loss.injects and not all(isinstance(rule, dict) and 'type' in rule for rule in rules):
        wanted = "a dict with a `type`, such as dict(type='auto')"
        if several:
            wanted += ', or a list of such dicts'
        raise ValueError(f'{where}.injection must be {wanted}; got {given!r}')
    return {**config, 'type': loss}
