"""Query-prior assignment distillation."""

from typing import Callable, Dict, NamedTuple, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .boxes import cxcywh_to_xyxy, iou_and_giou
from .pair_terms import Reduce, nonzero
from .stages import add_terms, stage_groups

PRESETS = {
    'paper': dict(assignment='teacher', references='teacher'),
    'released': dict(assignment='student', references='student'),
}


def focal_loss(logits: Tensor, labels: Tensor, iou: Tensor, weights: Tensor, avg: Tensor) -> Tensor:
    """Sigmoid focal loss (Lin et al., 2017), alpha 0.25, gamma 2, weight 2; label K = background.

    Args: logits (n, K), labels (n,), iou (n,) unused, weights (n,), avg 0-d. Returns: 0-d.
    """
    hot = F.one_hot(labels, logits.shape[-1] + 1)[:, :-1].to(logits.dtype)
    probs = logits.sigmoid()
    miss = (1 - probs) * hot + probs * (1 - hot)
    alpha = 0.25 * hot + 0.75 * (1 - hot)
    bce = F.binary_cross_entropy_with_logits(logits, hot, reduction='none')
    return 2.0 * (alpha * miss.square() * bce * weights.unsqueeze(-1)).sum() / avg


def l1_loss(boxes: Tensor, goals: Tensor, weights: Tensor, avg: Tensor) -> Tensor:
    """L1 on cxcywh (n, 4), summed over the coordinates, weight 5; weights (n, 4). Returns: 0-d."""
    return 5.0 * ((boxes - goals).abs() * weights).sum() / avg


def giou_loss(boxes_xyxy: Tensor, goals_xyxy: Tensor, weights: Tensor, avg: Tensor) -> Tensor:
    """1 - GIoU of corners (n, 4), weight 2; weights (n, 4). Returns: 0-d."""
    _, giou = iou_and_giou(boxes_xyxy, goals_xyxy)
    return 2.0 * ((1 - giou) * weights.mean(-1)).sum() / avg


class SetCriterion(NamedTuple):
    """A detector's own three loss terms, each a callable that returns a 0-d tensor.

    cls(logits (n, C), labels (n,), iou (n,), weights (n,), avg_factor)
    bbox(boxes (n, 4) cxcywh in [0, 1], goals, weights (n, 4), avg_factor)
    iou(boxes (n, 4) x1y1x2y2 in pixels, goals, weights (n, 4), avg_factor)
    background_weight: share of a background query in the normaliser of cls.
    """

    cls: Callable[..., Tensor] = focal_loss
    bbox: Callable[..., Tensor] = l1_loss
    iou: Callable[..., Tensor] = giou_loss
    background_weight: float = 0.0


def assign_kd(
    student_logits: Tensor,
    student_boxes: Tensor,
    assignment: Tensor,
    gt_labels: Sequence[Tensor],
    gt_boxes: Sequence[Tensor],
    *,
    num_classes: Optional[int] = None,
    criterion: SetCriterion = SetCriterion(),  # noqa: B008 (immutable)
    image_sizes: Optional[Tensor] = None,
    query_mask: Optional[Tensor] = None,
    pairing: str = 'group',
    reduce: Reduce = torch.as_tensor,
) -> Dict[str, Tensor]:
    """The detector's own loss on the teacher's queries, under an assignment that is given.

    Source: DETRDistill, Eq. 10: the teacher's queries enter the student's decoder as an extra set
    and keep the objects that the teacher's assignment gave them.
    Deviation: the released code matches the student's predictions anew.

    Args:
        student_logits: (L_s, B, N, C), the student's predictions for the teacher's N queries.
        student_boxes: (L_s, B, N, 4), cxcywh in [0, 1].
        assignment: (L_t, B, N) int64, the object of each query, -1 for background, -2 for a query
            that takes no part.
        gt_labels: per image (M_b,) in [0, K).
        gt_boxes: per image (M_b, 4), cxcywh in [0, 1].
        num_classes: K, the background label; None: C.
        criterion: the loss terms.
        image_sizes: (B, 2) height and width in pixels, for the unit of `criterion.iou`; None: 1.
        query_mask: (L_s, B, N) bool, True = takes part. None: all.
        pairing: teacher stages of a student stage, see `stage_groups`; a group is averaged.
        reduce: averages a 0-d count over processes.

    Returns:
        0-d tensors `cls`, `bbox`, `iou`, summed over student stages; the box terms are 0 without
        objects.
    """
    background = student_logits.shape[-1] if num_classes is None else num_classes
    # An index by a mask would halt a GPU: objects in one tensor (B, M + 1), the last never meant.
    labels = pad_sequence([F.pad(values, (0, 1)) for values in gt_labels], batch_first=True)
    goals = pad_sequence([F.pad(values, (0, 0, 0, 1)) for values in gt_boxes], batch_first=True)
    losses: Dict[str, Tensor] = {}
    for stage, group in enumerate(
        stage_groups(student_logits.shape[0], assignment.shape[0], pairing)
    ):
        for other in group:
            terms = _set_loss(
                student_logits[stage],
                student_boxes[stage],
                assignment[other],
                labels,
                goals,
                background,
                criterion,
                image_sizes,
                None if query_mask is None else query_mask[stage],
                reduce,
            )
            add_terms(losses, terms, 1 / len(group))
    return losses


def _set_loss(
    logits: Tensor,
    boxes: Tensor,
    assignment: Tensor,
    gt_labels: Tensor,
    gt_boxes: Tensor,
    background: int,
    criterion: SetCriterion,
    image_sizes: Optional[Tensor],
    query_mask: Optional[Tensor],
    reduce: Reduce,
) -> Dict[str, Tensor]:
    """One stage: (B, N, C), (B, N, 4), (B, N) -> 0-d terms."""
    if query_mask is None:
        query_mask = torch.ones_like(assignment, dtype=torch.bool)
    query_mask = query_mask & (assignment > -2)
    positive = (assignment >= 0) & query_mask
    found = assignment.clamp(min=0)
    labels = gt_labels.gather(1, found).masked_fill(~positive, background)
    goals = gt_boxes.gather(1, found.unsqueeze(-1).expand(-1, -1, 4)).to(boxes.dtype)
    goals = goals.masked_fill(~positive.unsqueeze(-1), 0)

    dtype = boxes.dtype
    num_positive = positive.sum().to(dtype)
    num_negative = query_mask.sum().to(dtype) - num_positive
    cls_avg = nonzero(reduce(num_positive + num_negative * criterion.background_weight))
    box_avg = nonzero(reduce(num_positive))
    scale = boxes.new_ones(4)
    if image_sizes is not None:  # (h, w) -> (w, h, w, h) per query
        scale = image_sizes.to(dtype).flip(-1).repeat(1, 2).unsqueeze(1)
    corners = (cxcywh_to_xyxy(boxes) * scale).flatten(0, 1)
    goal_corners = (cxcywh_to_xyxy(goals) * scale).flatten(0, 1)
    box_weights = positive.to(dtype).flatten().unsqueeze(-1).expand(-1, 4)
    iou, _ = iou_and_giou(corners.detach(), goal_corners)
    return {
        'cls': criterion.cls(
            logits.flatten(0, 1),
            labels.flatten(),
            iou.masked_fill(~positive.flatten(), 0),
            query_mask.to(dtype).flatten(),
            cls_avg,
        ),
        'bbox': criterion.bbox(boxes.flatten(0, 1), goals.flatten(0, 1), box_weights, box_avg),
        'iou': criterion.iou(corners, goal_corners, box_weights, box_avg),
    }
