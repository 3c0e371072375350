"""Query-prior assignment distillation."""

from typing import Callable, Dict, NamedTuple, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .boxes import box_iou, cxcywh_to_xyxy, giou_distance
from .stages import Reduce, at_least_one, means_over, pick_stages, stage_pairs
from .transfer import pad_rows

#: makes the IoU (n,) of n predicted boxes with their objects', 0 for background; without gradient
IoU = Callable[[], Tensor]


def focal_loss(logits: Tensor, labels: Tensor, iou: IoU) -> Tensor:
    """Sigmoid focal loss (Lin et al., 2017), alpha 0.25, gamma 2, weight 2; label K = background.

    Args: logits (n, K), labels (n,), iou unused. Returns: (n,), summed over the classes.
    """
    hot = F.one_hot(labels, logits.shape[-1] + 1)[:, :-1].to(logits.dtype)
    probs = logits.sigmoid()
    miss = (1 - probs) * hot + probs * (1 - hot)
    alpha = 0.25 * hot + 0.75 * (1 - hot)
    bce = F.binary_cross_entropy_with_logits(logits, hot, reduction='none')
    return 2.0 * (alpha * miss.square() * bce).sum(-1)


def l1_loss(boxes: Tensor, target_boxes: Tensor) -> Tensor:
    """L1 on cxcywh (n, 4), summed over the coordinates, weight 5. Returns: (n,)."""
    return 5.0 * (boxes - target_boxes).abs().sum(-1)


def giou_loss(boxes_xyxy: Tensor, target_boxes_xyxy: Tensor, weight: float = 2.0) -> Tensor:
    """(1 - GIoU) * weight of corners (n, 4). Returns: (n,)."""
    return weight * giou_distance(boxes_xyxy, target_boxes_xyxy)


class SetCriterion(NamedTuple):
    """A detector's own three loss terms: what each of n queries costs, before any normaliser.

    cls(logits (n, C), labels (n,), iou) -> (n,); `iou()` is (n,), for a loss that reads it
    bbox(boxes (n, 4) cxcywh in [0, 1], target boxes) -> (n,); without an object it counts nothing
    iou(boxes (n, 4) x1y1x2y2 in pixels, target boxes) -> (n,), likewise
    background_weight: share of a background query in the normaliser of cls.
    """

    cls: Callable[[Tensor, Tensor, IoU], Tensor] = focal_loss
    bbox: Callable[[Tensor, Tensor], Tensor] = l1_loss
    iou: Callable[[Tensor, Tensor], Tensor] = giou_loss
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
    reduce: Reduce = at_least_one,
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
        reduce: averages a tensor of counts over processes, and keeps each from being 0.

    Returns:
        0-d tensors `cls`, `bbox`, `iou`, summed over student stages; the box terms are 0 without
        objects.

    Raises:
        ValueError: unknown pairing.
    """
    background = student_logits.shape[-1] if num_classes is None else num_classes
    pairs = stage_pairs(student_logits.shape[0], assignment.shape[0], pairing)
    logits, boxes = (pick_stages(x, pairs.student) for x in (student_logits, student_boxes))
    assignment = pick_stages(assignment, pairs.teacher)
    taking_part, positive = assignment > -2, assignment >= 0
    if query_mask is not None:
        query_mask = pick_stages(query_mask, pairs.student)
        taking_part, positive = taking_part & query_mask, positive & query_mask
    other = ~positive

    # Indexing by a mask forces a host-device synchronisation: objects are in one tensor (B, M + 1).
    objects, places = pad_rows(gt_labels), pad_rows(gt_boxes)
    found = assignment.clamp(min=0)
    num_pairs = found.shape[0]
    labels = objects.expand(num_pairs, -1, -1).gather(2, found).masked_fill(other, background)
    rows = found.unsqueeze(-1).expand(-1, -1, -1, 4)
    target_boxes = places.to(boxes.dtype).expand(num_pairs, -1, -1, -1).gather(2, rows)

    masks = torch.stack((taking_part, positive, positive))
    num_all, num_positive, _ = counts = masks.sum((2, 3)).to(boxes.dtype)  # (3, P)
    num_weighed = num_positive.lerp(num_all, criterion.background_weight)
    normalisers = reduce(torch.cat((num_weighed[None], counts[1:])))
    corners, target_corners = cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target_boxes)
    if image_sizes is not None:  # (h, w) -> (w, h, w, h) per query
        scale = image_sizes.to(boxes.dtype).flip(-1).repeat(1, 2).unsqueeze(1)
        corners, target_corners = corners * scale, target_corners * scale
    corners, target_corners = corners.flatten(0, 2), target_corners.flatten(0, 2)

    def iou() -> Tensor:
        return box_iou(corners.detach(), target_corners).masked_fill(other.flatten(), 0)

    values = (
        criterion.cls(logits.flatten(0, 2), labels.flatten(), iou),
        criterion.bbox(boxes.flatten(0, 2), target_boxes.flatten(0, 2)),
        criterion.iou(corners, target_corners),
    )
    terms = means_over(
        torch.stack([value.view_as(positive) for value in values]),
        masks,
        normalisers,
        pairs.factors,
    )
    return dict(zip(('cls', 'bbox', 'iou'), terms.unbind()))
