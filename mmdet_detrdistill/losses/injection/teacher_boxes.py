"""The teacher's predicted boxes as anchors of a student whose queries are anchored."""

from typing import Callable, Dict

import torch
from torch import Tensor

from ...detectors import DetectorAdapter
from ...detectors.pair import DistillPair
from ...functional.boxes import clamp_to_image
from ...registry import register
from .base import InjectionRule


@register('TASK_UTILS')
class TeacherBoxInjection(InjectionRule):
    """Queries of the student at the boxes that a teacher of any family predicts.

    Source: none in DETRDistill; for students with anchors (DAB, two-stage Deformable, DINO, DDQ)
    and a teacher whose queries mean something else. Box i keeps the teacher's assignment of query
    i. Content is the student's own: that of its first query (DAB), made of the box (two-stage
    Deformable), its content queries in turn (DINO, DDQ).
    """

    def refusal(self, student: DetectorAdapter, teacher: DetectorAdapter) -> str:
        if student.query_kind in MAKERS:
            return ''
        return f'queries of kind {student.query_kind!r} have no anchor box to put a box into'

    def forward(self, pair: DistillPair) -> Dict[str, Tensor]:
        """Entries of the student's decoder inputs to replace, each (B, N_t, .)."""
        boxes = clamp_to_image(pair.teacher_forward.outputs.boxes[-1].detach())
        own = pair.student_forward.state.decoder_inputs['query']
        return MAKERS[pair.student.query_kind](pair, boxes.to(own.dtype).clamp(1e-3, 1 - 1e-3))


def _anchors(pair: DistillPair, boxes: Tensor) -> Dict[str, Tensor]:
    """DAB: the raw anchor is the box before its sigmoid."""
    own = pair.student_forward.state.decoder_inputs
    anchor_dims = own['query_pos'].shape[-1]
    return dict(
        query=own['query'][:, :1].expand(-1, boxes.shape[1], -1),
        query_pos=torch.logit(boxes[..., :anchor_dims]),
    )


def _proposals(pair: DistillPair, boxes: Tensor) -> Dict[str, Tensor]:
    """Two-stage Deformable: content and position are made of the box by the student's layers."""
    detector = pair.student.detector
    embedding = detector.get_proposal_pos_embed(torch.logit(boxes)).to(boxes.dtype)
    position, content = detector.pos_trans_norm(detector.pos_trans_fc(embedding)).chunk(2, dim=-1)
    return dict(query=content, query_pos=position, reference_points=boxes)


def _boxes(pair: DistillPair, boxes: Tensor) -> Dict[str, Tensor]:
    """DINO, DDQ: own content queries, taken in turn when the teacher has more boxes."""
    state = pair.student_forward.state
    first = (state.head_inputs.get('dn_meta') or {}).get('num_denoising_queries', 0)
    content = state.decoder_inputs['query'][:, first : first + pair.student.detector.num_queries]
    turn = torch.arange(boxes.shape[1], device=boxes.device) % content.shape[1]
    return dict(query=content[:, turn], reference_points=boxes)


MAKERS: Dict[str, Callable[[DistillPair, Tensor], Dict[str, Tensor]]] = {
    'anchor': _anchors,
    'proposal': _proposals,
    'box': _boxes,
    'distinct': _boxes,
}
