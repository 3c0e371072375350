"""Module of `functional.logits_kd`."""

from typing import ClassVar, Dict, Optional, Sequence

from torch import Tensor

from ..detectors import DetectorAdapter
from ..detectors.pair import DistillPair
from ..functional.logits_kd import MATCHINGS, PRESETS, logits_kd, needs_positives
from ..functional.stages import PAIRINGS, REDUCTIONS, stage_pairs
from ..registry import register
from .base import DistillLoss, full_precision, reduce_count, weighted


@register('MODELS')
class LogitsKDLoss(DistillLoss):
    """Hungarian-matching logits distillation, see `functional.logits_kd` for every option.

    Args:
        loss_weight: factor of all terms.
        preset: 'paper' (separate, boxes only for negatives) or 'released' (joint, class for all).
    """

    statistics = ('entropy',)
    choices: ClassVar = dict(matching=MATCHINGS, pairing=PAIRINGS, group_reduction=REDUCTIONS)

    def __init__(
        self,
        loss_weight: float = 1.0,
        preset: str = 'paper',
        matching: Optional[str] = None,
        negative_cls: Optional[bool] = None,
        pairing: str = 'group',
        group_reduction: str = 'mean',
        cls_weight: float = 1.0,
        bbox_weight: float = 5.0,
        giou_weight: float = 2.0,
        contrast_weight: float = 0.0,
    ) -> None:
        super().__init__(
            loss_weight,
            preset,
            PRESETS,
            matching=matching,
            negative_cls=negative_cls,
            pairing=pairing,
            group_reduction=group_reduction,
            cls_weight=cls_weight,
            bbox_weight=bbox_weight,
            giou_weight=giou_weight,
            contrast_weight=contrast_weight,
        )

    def prepare(self, student: DetectorAdapter, teacher: DetectorAdapter) -> None:
        widths = student.embed_dims, teacher.embed_dims
        if self.options['contrast_weight'] and widths[0] != widths[1]:
            raise ValueError(f'LogitsKDLoss: contrast_weight needs equal widths, got {widths}')

    def assigned_stages(self, num_student: int, num_teacher: int) -> Sequence[int]:
        options = self.options
        if not needs_positives(options['matching'], options['negative_cls']):
            return ()
        return stage_pairs(num_student, num_teacher, options['pairing']).teacher

    def forward(self, pair: DistillPair) -> Dict[str, Tensor]:
        student, teacher = pair.student_forward.outputs, pair.teacher_forward.outputs
        with full_precision(student.logits):
            terms = logits_kd(
                **pair.predictions(student),
                student_embeds=student.hidden_states,
                teacher_embeds=teacher.hidden_states,
                reduce=reduce_count,
                **self.options,
            )
        return weighted(self.loss_weight, terms)
