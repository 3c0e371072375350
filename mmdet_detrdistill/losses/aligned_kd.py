"""Module of `functional.aligned_kd`."""

from typing import Any, ClassVar, Dict, Mapping, Optional, Sequence

from torch import Tensor

from ..detectors.pair import DistillPair
from ..functional.aligned_kd import AlignedKDOptions, aligned_kd
from ..functional.stages import stage_pairs
from ..registry import register
from .base import full_precision, reduce_count, weighted
from .injected_pass import InjectedLoss


@register('MODELS')
class AlignedKDLoss(InjectedLoss):
    """Index-aligned distillation on the injected queries, see `functional.aligned_kd`.

    Not part of DETRDistill, hence without its presets; shares the injected pass of `AssignKDLoss`,
    so that it is nearly free beside it.

    Args:
        loss_weight: factor of all terms.
        injection: config of an injection rule, see `InjectedLoss`.
        options: those of `AlignedKDOptions`.
    """

    presets: ClassVar[Mapping[str, AlignedKDOptions]] = {'default': AlignedKDOptions()}
    statistics = ('entropy',)

    def __init__(
        self,
        loss_weight: float = 1.0,
        preset: Optional[str] = None,
        injection: Optional[Dict[str, Any]] = None,
        **options: Any,
    ) -> None:
        super().__init__(
            injection or dict(type='auto', references='teacher'), loss_weight, preset, **options
        )

    def assigned_stages(self, num_student: int, num_teacher: int) -> Sequence[int]:
        return stage_pairs(num_student, num_teacher, self.options.pairing).teacher

    def forward(self, pair: DistillPair) -> Dict[str, Tensor]:
        student, teacher = pair.predictions(self.injected_pass(pair))
        with full_precision(student.logits):
            terms = aligned_kd(
                student, teacher, pair.teacher_positive_mask, self.options, reduce_count
            )
        return weighted(self.loss_weight, terms)
