"""Decoder inputs of a detector whose queries are anchored, at given boxes."""

from dataclasses import replace
from typing import Callable, Dict

import torch
import torch.nn.functional as F
from torch import Tensor

from ...detectors import DetectorAdapter, EncoderState
from ...functional.boxes import clamp_to_image


def refuse_boxes(side: DetectorAdapter) -> str:
    """Say why no box can enter a detector's decoder, or return ''."""
    if side.own_queries_only:
        return f'the decoder of the {side.side} takes no other queries: {side.own_queries_only}'
    if side.query_kind in MAKERS:
        return ''
    return f'queries of kind {side.query_kind!r} have no anchor box to put a box into'


def box_queries(side: DetectorAdapter, state: EncoderState, boxes: Tensor) -> Dict[str, Tensor]:
    """Make queries of a detector at boxes.

    Content is the detector's own: that of its first query (DAB), made of the box (two-stage
    Deformable), its memory there (RT-DETR), else its content queries in turn.

    Args:
        side: adapter of the detector.
        state: its pass up to the decoder.
        boxes: (B, N, 4) cxcywh in [0, 1]; they are cut at the image.

    Returns:
        Entries of its decoder inputs to replace, each (B, N, .).
    """
    return MAKERS[side.query_kind](side, state, clamp_to_image(boxes).clamp(1e-3, 1 - 1e-3))


def _anchors(side: DetectorAdapter, state: EncoderState, boxes: Tensor) -> Dict[str, Tensor]:
    """DAB: the raw anchor is the box before its sigmoid."""
    own = state.decoder_inputs
    anchor_dims = own['query_pos'].shape[-1]
    return dict(
        query=own['query'][:, :1].expand(-1, boxes.shape[1], -1),
        query_pos=torch.logit(boxes[..., :anchor_dims]),
    )


def _proposals(side: DetectorAdapter, state: EncoderState, boxes: Tensor) -> Dict[str, Tensor]:
    """Two-stage Deformable: content and position are made of the box by the student's layers."""
    detector = side.detector
    embedding = detector.get_proposal_pos_embed(torch.logit(boxes)).to(boxes.dtype)
    position, content = detector.pos_trans_norm(detector.pos_trans_fc(embedding)).chunk(2, dim=-1)
    return dict(query=content, query_pos=position, reference_points=boxes)


def _boxes(side: DetectorAdapter, state: EncoderState, boxes: Tensor) -> Dict[str, Tensor]:
    """DINO, DDQ, Sparse R-CNN: own content queries, in turn when the teacher has more boxes."""
    first = (state.head_inputs.get('dn_meta') or {}).get('num_denoising_queries', 0)
    content = state.decoder_inputs['query'][:, first : first + side.num_queries]
    turn = torch.arange(boxes.shape[1], device=boxes.device) % content.shape[1]
    return dict(query=content[:, turn], reference_points=boxes)


def _memory(side: DetectorAdapter, state: EncoderState, boxes: Tensor) -> Dict[str, Tensor]:
    """RT-DETR: memory at the box's centre, on the level whose proposals are nearest in size."""
    detector = side.detector
    memory = detector.memory_trans_norm(detector.memory_trans_fc(state.memory)).detach()
    grid = 2 * boxes[:, :, None, :2] - 1
    levels = torch.stack(
        [
            F.grid_sample(values, grid.to(values.dtype), padding_mode='border', align_corners=False)
            for values in replace(state, memory=memory).memory_maps()
        ]
    )  # (levels, B, D, N, 1)
    proposal = 0.05  # side of the finest level's, which doubles from level to level
    size = boxes[..., 2:].prod(-1).sqrt()
    level = (size / proposal).log2().round().long().clamp(0, len(levels) - 1)
    content = levels.squeeze(-1).permute(1, 3, 0, 2)  # (B, N, levels, D)
    chosen = level[:, :, None, None].expand(-1, -1, 1, content.shape[-1])
    return dict(
        query=content.gather(2, chosen).squeeze(2),
        reference_points=torch.logit(boxes),
    )


Maker = Callable[[DetectorAdapter, EncoderState, Tensor], Dict[str, Tensor]]
MAKERS: Dict[str, Maker] = {
    'anchor': _anchors,
    'proposal': _proposals,
    'box': _boxes,
    'distinct': _boxes,
    'memory': _memory,
    'region': _boxes,
}
