"""The teacher's predicted boxes as anchors of a student whose queries are anchored."""

from typing import Dict

from torch import Tensor

from ...detectors import DetectorAdapter
from ...detectors.pair import DistillPair
from ...registry import register
from .base import InjectionRule
from .box_queries import box_queries, refuse_boxes


@register('TASK_UTILS')
class TeacherBoxInjection(InjectionRule):
    """Make queries of the student at the boxes that a teacher of any family predicts.

    Source: none in DETRDistill; for students with anchors (DAB, two-stage Deformable, DINO, DDQ,
    RT-DETR, Sparse R-CNN) and a teacher whose queries mean something else. Box i keeps the
    teacher's assignment of query i. For the content see `box_queries`.
    """

    from_last_stage = True

    def refusal(self, student: DetectorAdapter, teacher: DetectorAdapter) -> str:
        return refuse_boxes(student)

    def forward(self, pair: DistillPair) -> Dict[str, Tensor]:
        """Return the entries of the student's decoder inputs to replace, each (B, N_t, .)."""
        boxes = pair.teacher_forward.outputs.boxes[-1].detach()
        return box_queries(pair.student, pair.student_forward.state, boxes)
