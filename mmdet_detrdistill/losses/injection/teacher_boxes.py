"""The teacher's predicted boxes as anchors of a student whose queries are anchored."""

from dataclasses import replace
from typing import Callable, Dict

import torch
import torch.nn.functional as F
from torch import Tensor

from ...detectors import DetectorAdapter
from ...detectors.pair import DistillPair
from ...functional.boxes import clamp_to_image
from ...registry import register
from .base import InjectionRule


@register('TASK_UTILS')
class TeacherBoxInjection(InjectionRule):
    """Make queries of the student at the boxes that a teacher of any family predicts.

    Source: none in DETRDistill; for students with anchors (DAB, two-stage Deformable, DINO, DDQ,
    RT-DETR, Sparse R-CNN) and a teacher whose queries mean something else. Box i keeps the
    teacher's assignment of query i. Content is the student's own: that of its first query (DAB),
    made of the box (two-stage Deformable), its memory there (RT-DETR), else its content queries in
    turn.
    """

    from_last_stage = True

    def refusal(self, student: DetectorAdapter, teacher: DetectorAdapter) -> str:
        if student.query_kind in MAKERS:
            return ''
        return f'queries of kind {student.query_kind!r} have no anchor box to put a box into'

    def forward(self, pair: DistillPair) -> Dict[str, Tensor]:
        """Return the entries of the student's decoder inputs to replace, each (B, N_t, .)."""
        boxes = clamp_to_image(pair.teacher_forward.outputs.boxes[-1].detach())
        return MAKERS[pair.student.query_kind](pair, boxes.clamp(1e-3, 1 - 1e-3))


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
    """DINO, DDQ, Sparse R-CNN: own content queries, in turn when the teacher has more boxes."""
    state = pair.student_forward.state
    first = (state.head_inputs.get('dn_meta') or {}).get('num_denoising_queries', 0)
    content = state.decoder_inputs['query'][:, first : first + pair.student.num_queries]
    turn = torch.arange(boxes.shape[1], device=boxes.device) % content.shape[1]
    return dict(query=content[:, turn], reference_points=boxes)


def _memory(pair: DistillPair, boxes: Tensor) -> Dict[str, Tensor]:
    """RT-DETR: memory at the box's centre, on the level whose proposals are nearest in size."""
    state, detector = pair.student_forward.state, pair.student.detector
    memory = detector.memory_trans_norm(detector.memory_trans_fc(state.memory)).detach()
    grid = 2 * boxes[:, :, None, :2] - 1
    levels = torch.stack(
        [
            F.grid_sample(values, grid.to(values.dtype), padding_mode='border', align_corners=False)
            for values in replace(state, memory=memory).memory_maps()
        ]
    )  # (levels, B, D, N, 1)
    proposal = 0.05  # side of the finest level's, which doubles from level to level
    side = boxes[..., 2:].prod(-1).sqrt()
    level = (side / proposal).log2().round().long().clamp(0, len(levels) - 1)
    content = levels.squeeze(-1).permute(1, 3, 0, 2)  # (B, N, levels, D)
    chosen = level[:, :, None, None].expand(-1, -1, 1, content.shape[-1])
    return dict(
        query=content.gather(2, chosen).squeeze(2),
        reference_points=torch.logit(boxes),
    )


MAKERS: Dict[str, Callable[[DistillPair, Tensor], Dict[str, Tensor]]] = {
    'anchor': _anchors,
    'proposal': _proposals,
    'box': _boxes,
    'distinct': _boxes,
    'memory': _memory,
    'region': _boxes,
}
