"""Hungarian matching of two sets of predictions, all stages and images of a batch at once."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Callable, List, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from .boxes import cxcywh_to_xyxy, giou_distance
from .classes import check_activation
from .gpu_assignment import match_where_they_are, solves
from .linear_assignment import solve_chains
from .stages import scaled
from .transfer import to_device, to_host


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
        cost = scaled(base - logits @ targets.transpose(-1, -2), cls_weight)
    else:
        cost = -cls_weight * (logits.log_softmax(-1) @ targets.transpose(-1, -2))
    cost.add_(torch.cdist(boxes, others, p=1), alpha=bbox_weight)
    corners = cxcywh_to_xyxy(boxes).unsqueeze(-2), cxcywh_to_xyxy(others).unsqueeze(-3)
    return cost.add_(giou_distance(*corners), alpha=giou_weight)


def match(
    cost: Tensor, student_mask: Optional[Tensor] = None, teacher_mask: Optional[Tensor] = None
) -> Tensor:
    """One-to-one assignment of least total cost, for every stage and image on its own.

    Args:
        cost: (L, B, N_s, N_t), on any device.
        student_mask: (L, B, N_s) bool, True = may be matched. None: all.
        teacher_mask: (L, B, N_t) bool, likewise.

    Returns:
        (L, B, N_t) int64 on the device of `cost`: the student query of each teacher query, or -1
        where it has none. In each problem min(students, teachers) pairs are made.

    Raises:
        ValueError: a cost is NaN, infinite or above 1e30; names stage and image.
    """
    return start_matching(cost, student_mask, [teacher_mask])()


@torch.no_grad()
def start_matching(
    cost: Tensor, student_mask: Optional[Tensor], teacher_masks: Sequence[Optional[Tensor]]
) -> Callable[[], Tensor]:
    """Start `match` for several sets of teacher queries; one transfer takes everything to the CPU.

    The solver works in threads of its own from the moment the costs are on the CPU, while the
    caller goes on, for instance by queueing work on a GPU. With torch-linear-assignment costs on a
    GPU stay there, and are solved when the result is asked for.

    Args:
        cost: (L, B, N_s, N_t); `student_mask`: (L, B, N_s) or None; see `match`.
        teacher_masks: per set (L, B, N_t) or None; each set is matched with all students. The sets
            share no query.

    Returns:
        A function that waits for the solver and gives what `match` returns, for all sets.
    """
    if solves(cost):
        return partial(match_where_they_are, cost.detach(), student_mask, teacher_masks)
    masks = [mask for mask in (student_mask, *teacher_masks) if mask is not None]
    arrays_of = to_host([cost.detach(), *masks])
    given = [mask is not None for mask in (student_mask, *teacher_masks)]
    job = _background().submit(_match_arrays, arrays_of, given)
    return lambda: to_device(job.result(), cost.device)


@lru_cache(maxsize=1)
def _background() -> ThreadPoolExecutor:
    """The thread that waits for costs and hands them to the solver's threads."""
    return ThreadPoolExecutor(1, thread_name_prefix='matching')


def _match_arrays(arrays_of: Callable[[], List[np.ndarray]], given: Sequence[bool]) -> np.ndarray:
    """Solve; (L, B, N_t), see `start_matching`."""
    costs, *masks = arrays_of()
    everyone = [np.ones(costs.shape[:2] + (size,), dtype=bool) for size in costs.shape[2:]]
    rows_given, *columns_given = given
    keep_rows = masks.pop(0) if rows_given else everyone[0]
    keep_columns = [masks.pop(0) if there else everyone[1] for there in columns_given]
    finite = np.abs(costs) < 1e30  # so that sums of them are finite too
    all_finite = bool(finite.all())
    num_stages, num_images, _, num_teachers = costs.shape
    chains, places = [], []
    for keep in keep_columns:
        for image in range(num_images):
            ids = [
                (keep_rows[stage, image].nonzero()[0], keep[stage, image].nonzero()[0])
                for stage in range(num_stages)
            ]
            for stage, (row_ids, column_ids) in enumerate(ids):
                if not (all_finite or _part(finite[stage, image], row_ids, column_ids).all()):
                    raise ValueError(
                        f'matching cost is NaN, infinite or above 1e30 at stage {stage}, '
                        f'image {image}'
                    )
            # The stages of an image are alike: prices of one start the next.
            chains.append([_part(costs[s, image], *ids[s]) for s in range(num_stages)])
            places.append((image, ids))
    matched = np.full((num_stages, num_images, num_teachers), -1, dtype=np.int64)
    for (image, ids), solved in zip(places, solve_chains(chains)):
        for stage, (found_rows, found_columns) in enumerate(solved):
            row_ids, column_ids = ids[stage]
            matched[stage, image, column_ids[found_columns]] = row_ids[found_rows]
    return matched


def _part(matrix: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The picked rows and columns; the matrix itself when that is all of them."""
    if (rows.size, columns.size) == matrix.shape:
        return matrix
    part: np.ndarray = matrix[np.ix_(rows, columns)]
    return part


def name_non_finite(side: str, logits: Tensor, boxes: Tensor) -> Optional[str]:
    """Where predictions (L, B, N, .) of 'student' or 'teacher' are NaN or Inf; None if nowhere."""
    for name, tensor in (('logits', logits), ('boxes', boxes)):
        bad = (~torch.isfinite(tensor)).flatten(2).any(-1).nonzero()
        if bad.shape[0]:
            stage, image = bad[0].tolist()
            return f'{side} {name} are not finite at stage {stage}, image {image}'
    return None
