"""Module of `functional.assign_kd`."""

from dataclasses import dataclass
from typing import Any, ClassVar, Dict, Literal, Mapping, Optional, Sequence

from torch import Tensor

from ..detectors.pair import DistillPair
from ..functional.assign_kd import assign_kd
from ..functional.stages import Pairing, stage_pairs
from ..registry import register
from .base import full_precision, reduce_count, weighted
from .injected_pass import InjectedLoss
from .injection import InjectionRule


@dataclass(frozen=True)
class AssignKDOptions:
    """Options of `AssignKDLoss`; the defaults are the paper's.

    Attributes:
        assignment: 'teacher' keeps the teacher's assignment to the ground truth, 'student' matches
            the student's predictions anew.
        references: whose reference points go along, see `TeacherQueryInjection`.
        pairing: teacher stages of a student stage, see `stage_groups`.
    """

    assignment: Literal['teacher', 'student'] = 'teacher'
    references: Literal['teacher', 'student'] = 'teacher'
    pairing: Pairing = 'group'


@register('MODELS')
class AssignKDLoss(InjectedLoss):
    """Query-prior assignment distillation, see `functional.assign_kd`.

    The terms are the student's own detection losses on the teacher's queries. Under the teacher's
    assignment a class that the teacher does not know (-1 in a class map) is left out of the class
    term: its objects belong to no query of the teacher, and counting them as background would make
    the student unlearn what its own loss teaches. For the classes that the teacher knows such an
    object is background. Leaving out queries that overlap it would need a threshold, and lose that.

    Args:
        loss_weight: factor of all terms.
        preset: 'paper' or 'released'.
        injection: config of an injection rule, see `InjectedLoss`.
        options: those of `AssignKDOptions`.

    Raises:
        ValueError: unknown option; a pair that the rule refuses, or a rule without an assignment
            (when the distiller builds it).
    """

    presets: ClassVar[Mapping[str, AssignKDOptions]] = {
        'paper': AssignKDOptions(),
        'released': AssignKDOptions(assignment='student', references='student'),
    }

    def __init__(
        self,
        loss_weight: float = 1.0,
        preset: Optional[str] = None,
        injection: Optional[Dict[str, Any]] = None,
        **options: Any,
    ) -> None:
        super().__init__(injection or dict(type='auto'), loss_weight, preset, **options)

    def follow(self, name: str, rule: InjectionRule) -> None:
        if rule.both_sides:
            raise ValueError(
                f'AssignKDLoss: the teacher has assigned no query of {type(rule).__name__}; it '
                'serves loss_aligned_kd'
            )
        super().follow(name, rule)

    def assigned_stages(self, num_student: int, num_teacher: int) -> Sequence[int]:
        if self.options.assignment == 'student':
            return ()
        return stage_pairs(num_student, num_teacher, self.options.pairing).teacher

    def forward(self, pair: DistillPair) -> Dict[str, Tensor]:
        outputs = self.injected_pass(pair)
        logits = outputs.logits
        if self.options.assignment == 'teacher':
            assignment, logits = pair.teacher_assignment, pair.without_unmapped(logits)
        else:
            assignment = pair.student.assign(outputs, pair.samples)
        labels, boxes, sizes = pair.ground_truth
        with full_precision(outputs.logits):
            terms = assign_kd(
                logits,
                outputs.boxes,
                assignment,
                labels,
                boxes,
                num_classes=pair.student.num_classes,
                criterion=pair.student.criterion(),
                image_sizes=sizes,
                query_mask=outputs.query_mask,
                pairing=self.options.pairing,
                reduce=reduce_count,
            )
        return weighted(self.loss_weight, terms)
