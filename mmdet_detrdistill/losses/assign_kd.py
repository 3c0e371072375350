"""Module of `functional.assign_kd`."""

from typing import Any, ClassVar, Dict, Optional, Sequence

from torch import Tensor

from ..detectors.pair import DistillPair
from ..functional.assign_kd import PRESETS, assign_kd
from ..functional.stages import PAIRINGS, stage_pairs
from ..registry import register
from .base import full_precision, reduce_count, weighted
from .injected_pass import InjectedLoss
from .injection.teacher_queries import REFERENCES


@register('MODELS')
class AssignKDLoss(InjectedLoss):
    """Query-prior assignment distillation, see `functional.assign_kd`.

    The terms are the student's own detection losses on the teacher's queries.

    Args:
        loss_weight: factor of all terms.
        preset: 'paper' or 'released'.
        assignment: 'teacher' keeps the teacher's assignment to the ground truth, 'student' matches
            the student's predictions anew.
        references: whose reference points go along, see `TeacherQueryInjection`.
        pairing: teacher stages of a student stage, see `stage_groups`.
        injection: config of an injection rule, see `InjectedLoss`.

    Raises:
        ValueError: unknown option; a pair that the rule refuses (in `prepare`).
    """

    choices: ClassVar = dict(
        assignment=('teacher', 'student'), references=REFERENCES, pairing=PAIRINGS
    )

    def __init__(
        self,
        loss_weight: float = 1.0,
        preset: str = 'paper',
        assignment: Optional[str] = None,
        references: Optional[str] = None,
        pairing: str = 'group',
        injection: Optional[Dict[str, Any]] = None,
    ) -> None:
        super().__init__(
            injection or dict(type='auto'),
            loss_weight,
            preset,
            PRESETS,
            assignment=assignment,
            references=references,
            pairing=pairing,
        )
        if self.injection_config['type'] in ('auto', 'TeacherQueryInjection'):
            self.injection_config.setdefault('references', self.options['references'])

    def assigned_stages(self, num_student: int, num_teacher: int) -> Sequence[int]:
        if self.options['assignment'] == 'student':
            return ()
        return stage_pairs(num_student, num_teacher, self.options['pairing']).teacher

    def forward(self, pair: DistillPair) -> Dict[str, Tensor]:
        outputs = self.injected_pass(pair)
        if self.options['assignment'] == 'teacher':
            assignment = pair.teacher_assignment
        else:
            assignment = pair.student.assign(outputs, pair.samples)
        labels, boxes, sizes = pair.ground_truth
        with full_precision(outputs.logits):
            terms = assign_kd(
                outputs.logits,
                outputs.boxes,
                assignment,
                labels,
                boxes,
                num_classes=pair.student.num_classes,
                criterion=pair.student.criterion(),
                image_sizes=sizes,
                query_mask=outputs.query_mask,
                pairing=self.options['pairing'],
                reduce=reduce_count,
            )
        return weighted(self.loss_weight, terms)
