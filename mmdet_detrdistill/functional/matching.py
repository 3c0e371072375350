"""Hungarian matching of two sets of predictions, all stages and images of a batch at once."""

from typing import Optional, Tuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .boxes import cxcywh_to_xyxy, iou_and_giou
from .classes import check_activation


@torch.no_grad()
def matching_cost(
    student_logits: Tensor,
    student_boxes: Tensor,
    targets: Tensor,
    teacher_boxes: Tensor,
    *,
    activation: str = 'sigmoid',
    cls_weight: float = 1.0,
    bbox_weight: float = 5.0,
    giou_weight: float = 2.0,
) -> Tensor:
    """Cost of giving each student query to each teacher query.

    Source: the matching cost of DETRDistill, section 3.1: the distillation loss of the pair, that
    is class cross entropy x 1 + L1 on cxcywh x 5 + (1 - GIoU) x 2. Detached.

    Args:
        student_logits: (..., N_s, C).
        student_boxes: (..., N_s, 4), cxcywh in [0, 1].
        targets: (..., N_t, C) soft labels, see `soft_targets`.
        teacher_boxes: (..., N_t, 4), cxcywh in [0, 1].
        activation: the student's, 'sigmoid' or 'softmax'.
        cls_weight: weight of the class term; likewise `bbox_weight` and `giou_weight`.

    Returns:
        (..., N_s, N_t), at least float32.
    """
    check_activation(activation)
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    logits, targets = student_logits.to(dtype), targets.to(dtype)
    boxes, others = student_boxes.to(dtype), teacher_boxes.to(dtype)
    # BCE(s, p) summed over classes = sum softplus(s) - s . p, so that all pairs are one product.
    if activation == 'sigmoid':
        base = torch.nn.functional.softplus(logits).sum(-1, keepdim=True)
        cost = cls_weight * (base - logits @ targets.transpose(-1, -2))
    else:
        cost = -cls_weight * (logits.log_softmax(-1) @ targets.transpose(-1, -2))
    cost += bbox_weight * torch.cdist(boxes, others, p=1)
    _, giou = iou_and_giou(
        cxcywh_to_xyxy(boxes).unsqueeze(-2), cxcywh_to_xyxy(others).unsqueeze(-3)
    )
    return cost + giou_weight * (1 - giou)


@torch.no_grad()
def match(
    cost: Tensor, student_mask: Optional[Tensor] = None, teacher_mask: Optional[Tensor] = None
) -> Tensor:
    """One-to-one assignment of least total cost, for every stage and image on its own.

    Args:
        cost: (L, B, N_s, N_t), on any device; moved to the CPU once.
        student_mask: (L, B, N_s) bool, True = may be matched. None: all.
        teacher_mask: (L, B, N_t) bool, likewise.

    Returns:
        (L, B, N_t) int64 on the device of `cost`: the student query of each teacher query, or -1
        where it has none. In each problem min(students, teachers) pairs are made.

    Raises:
        ValueError: a cost is NaN or infinite; names stage and image.
    """
    costs = cost.detach().cpu().numpy()
    num_stages, num_images, num_students, num_teachers = costs.shape
    rows = _as_numpy(student_mask, (num_stages, num_images, num_students))
    columns = _as_numpy(teacher_mask, (num_stages, num_images, num_teachers))
    matched = np.full((num_stages, num_images, num_teachers), -1, dtype=np.int64)
    for stage in range(num_stages):
        for image in range(num_images):
            row_ids = rows[stage, image].nonzero()[0]
            column_ids = columns[stage, image].nonzero()[0]
            problem = costs[stage, image][np.ix_(row_ids, column_ids)]
            if not np.isfinite(problem).all():
                raise ValueError(
                    f'matching cost is NaN or infinite at stage {stage}, image {image}'
                )
            found_rows, found_columns = linear_sum_assignment(problem)
            matched[stage, image, column_ids[found_columns]] = row_ids[found_rows]
    return torch.from_numpy(matched).to(cost.device)


def name_non_finite(side: str, logits: Tensor, boxes: Tensor) -> Optional[str]:
    """Where predictions (L, B, N, .) of 'student' or 'teacher' are NaN or Inf; None if nowhere."""
    for name, tensor in (('logits', logits), ('boxes', boxes)):
        bad = (~torch.isfinite(tensor)).flatten(2).any(-1).nonzero()
        if bad.shape[0]:
            stage, image = bad[0].tolist()
            return f'{side} {name} are not finite at stage {stage}, image {image}'
    return None


def _as_numpy(mask: Optional[Tensor], shape: Tuple[int, ...]) -> np.ndarray:
    return np.ones(shape, dtype=bool) if mask is None else mask.cpu().numpy()
