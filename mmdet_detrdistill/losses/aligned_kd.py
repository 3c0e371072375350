"""Module of `functional.aligned_kd`."""

from typing import Any, ClassVar, Dict, Optional, Sequence

from torch import Tensor

from ..detectors.pair import DistillPair
from ..functional.aligned_kd import PRESETS, aligned_kd
from ..functional.stages import PAIRINGS, REDUCTIONS, stage_pairs
from ..registry import register
from .base import full_precision, reduce_count, weighted
from .injected_pass import InjectedLoss


@register('MODELS')
class AlignedKDLoss(InjectedLoss):
    """Index-aligned distillation on the injected queries, see `functional.aligned_kd`.

    Not part of DETRDistill; shares the injected pass of `AssignKDLoss`, so that it is nearly
    free beside it.

    Args:
        loss_weight: factor of all terms.
        injection: config of an injection rule, see `InjectedLoss`; the others as in `LogitsKDLoss`.
    """

    statistics = ('entropy',)
    choices: ClassVar = dict(pairing=PAIRINGS, group_reduction=REDUCTIONS)

    def __init__(
        self,
        loss_weight: float = 1.0,
        preset: str = 'paper',
        negative_cls: Optional[bool] = None,
        pairing: str = 'group',
        group_reduction: str = 'mean',
        cls_weight: float = 1.0,
        bbox_weight: float = 5.0,
        giou_weight: float = 2.0,
        injection: Optional[Dict[str, Any]] = None,
    ) -> None:
        super().__init__(
            injection or dict(type='auto', references='teacher'),
            loss_weight,
            preset,
            PRESETS,
            negative_cls=negative_cls,
            pairing=pairing,
            group_reduction=group_reduction,
            cls_weight=cls_weight,
            bbox_weight=bbox_weight,
            giou_weight=giou_weight,
        )

    def assigned_stages(self, num_student: int, num_teacher: int) -> Sequence[int]:
        return stage_pairs(num_student, num_teacher, self.options['pairing']).teacher

    def forward(self, pair: DistillPair) -> Dict[str, Tensor]:
        student = self.injected_pass(pair)
        with full_precision(student.logits):
            terms = aligned_kd(**pair.predictions(student), reduce=reduce_count, **self.options)
        return weighted(self.loss_weight, terms)
