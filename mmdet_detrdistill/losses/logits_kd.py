"""Module of `functional.logits_kd`."""

from typing import Callable, ClassVar, Dict, Mapping, Sequence

from torch import Tensor

from ..detectors import DetectorAdapter
from ..detectors.pair import DistillPair
from ..functional.logits_kd import LogitsKDOptions, start_logits_kd
from ..functional.stages import stage_pairs
from ..registry import register
from .base import DistillLoss, full_precision, reduce_count, weighted


@register('MODELS')
class LogitsKDLoss(DistillLoss):
    """Hungarian-matching logits distillation, see `functional.logits_kd`.

    Args:
        loss_weight: factor of all terms.
        preset: 'paper' (separate, boxes only for negatives) or 'released' (joint, class for all).
        options: those of `LogitsKDOptions`.

    Raises:
        ValueError: unknown option; a contrast between unequal widths (in `prepare`).
    """

    presets: ClassVar[Mapping[str, LogitsKDOptions]] = {
        'paper': LogitsKDOptions(),
        'released': LogitsKDOptions(matching='joint', negative_cls=True),
    }
    statistics = ('entropy',)

    def prepare(self, student: DetectorAdapter, teacher: DetectorAdapter) -> None:
        widths = student.embed_dims, teacher.embed_dims
        if self.options.contrast_weight and widths[0] != widths[1]:
            raise ValueError(f'LogitsKDLoss: contrast_weight needs equal widths, got {widths}')

    def assigned_stages(self, num_student: int, num_teacher: int) -> Sequence[int]:
        if not self.options.needs_positives:
            return ()
        return stage_pairs(num_student, num_teacher, self.options.pairing).teacher

    def start(self, pair: DistillPair) -> Callable[[], Dict[str, Tensor]]:
        student, teacher = pair.predictions(pair.student_forward.outputs)
        positive = pair.teacher_positive_mask if self.options.needs_positives else None
        _, gt_boxes, _ = pair.ground_truth
        with full_precision(student.logits):
            terms_of = start_logits_kd(
                student, teacher, positive, self.options, reduce_count, gt_boxes
            )

        def terms() -> Dict[str, Tensor]:
            with full_precision(student.logits):
                return weighted(self.loss_weight, terms_of())

        return terms
