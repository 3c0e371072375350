"""Module of `functional.aligned_kd`."""

from typing import Any, ClassVar, Dict, Mapping, Optional, Sequence, Union

from torch import Tensor

from ..detectors.pair import DistillPair
from ..functional.aligned_kd import AlignedKDOptions, aligned_kd
from ..functional.stages import stage_pairs
from ..registry import register
from .base import full_precision, reduce_count, weighted
from .injected_pass import InjectedLoss
from .injection import InjectionRule


@register('MODELS')
class AlignedKDLoss(InjectedLoss):
    """Index-aligned distillation on injected queries, see `functional.aligned_kd`.

    The recommended loss, alone (`configs/_base_/detrdistill.py`). Not part of DETRDistill, hence
    without its presets; shares the injected pass of `AssignKDLoss`, so that it is nearly free
    beside it.

    Args:
        loss_weight: factor of all terms.
        injection: config of an injection rule, or a list of such; see `InjectedLoss`. The terms of
            a `SharedBoxInjection` begin with its `prefix`.
        options: those of `AlignedKDOptions`; `negative_cls` is of the teacher's own queries.
    """

    presets: ClassVar[Mapping[str, AlignedKDOptions]] = {'default': AlignedKDOptions()}
    several_rules = True

    def __init__(
        self,
        loss_weight: float = 1.0,
        preset: Optional[str] = None,
        injection: Optional[Union[Dict[str, Any], Sequence[Dict[str, Any]]]] = None,
        **options: Any,
    ) -> None:
        super().__init__(injection or dict(type='auto'), loss_weight, preset, **options)
        self.shared_options = self.options  # of rules that do not decide the teacher's stage

    def follow(self, name: str, rule: InjectionRule) -> None:
        if any(rule.prefix == other.prefix for other in self.rules.values()):
            raise ValueError(f'AlignedKDLoss: two injection rules have the prefix {rule.prefix!r}')
        super().follow(name, rule)
        self.statistics = (*self.statistics, f'{rule.prefix}entropy')

    def assigned_stages(self, num_student: int, num_teacher: int) -> Sequence[int]:
        if all(rule.both_sides for rule in self.rules.values()):
            return ()
        return stage_pairs(num_student, num_teacher, self.options.pairing).teacher

    def forward(self, pair: DistillPair) -> Dict[str, Tensor]:
        terms: Dict[str, Tensor] = {}
        for name, rule in self.rules.items():
            student, teacher = pair.injected_predictions(name)
            positive, options = None, self.shared_options
            if not rule.both_sides:
                positive, options = pair.teacher_positive_mask, self.options
            with full_precision(student.logits):
                found = aligned_kd(
                    student, teacher, positive, options, reduce_count, rule.by_confidence
                )
            terms.update({f'{rule.prefix}{term}': value for term, value in found.items()})
        return weighted(self.loss_weight, terms)
