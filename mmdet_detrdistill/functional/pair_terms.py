"""The terms of matched pairs of predictions, for all pairs of stages at once."""

from typing import Callable, Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from .boxes import cxcywh_to_xyxy, iou_and_giou
from .classes import class_divergence, target_entropy

Reduce = Callable[[Tensor], Tensor]


def nonzero(counts: Tensor) -> Tensor:
    """Normalisers from counts averaged over processes: 0, where nothing is summed, becomes 1.

    A count between 0 and 1, of few objects on many processes, stays: raised to 1, it would make
    several processes weigh an object less than one process with the whole batch does.
    """
    return counts.masked_fill(counts == 0, 1)


class TermWeights(NamedTuple):
    """Weights of the three terms, in the matching cost and in the loss."""

    cls: float = 1.0
    bbox: float = 5.0
    giou: float = 2.0


def pair_terms(
    student_logits: Tensor,
    student_boxes: Tensor,
    targets: Tensor,
    target_boxes: Tensor,
    matched: Tensor,
    cls_mask: Optional[Tensor],
    factors: Tuple[float, ...],
    *,
    activation: str = 'sigmoid',
    weights: TermWeights = TermWeights(),  # noqa: B008 (immutable)
    reduce: Reduce = torch.as_tensor,
) -> Dict[str, Tensor]:
    """Weighted terms of P pairs of stages, each over its number of pairs, summed over the P.

    Source: the summands of DETRDistill, Eq. 3 and 4.

    Args:
        student_logits: (P, B, N_s, C).
        student_boxes: (P, B, N_s, 4), cxcywh in [0, 1].
        targets: (P, B, N_t, C) soft labels.
        target boxes: (P, B, N_t, 4), cxcywh in [0, 1].
        matched: (P, B, N_t) int64, the student query of each teacher query, -1 = none.
        cls_mask: (P, B, N_t) bool, True = its class is distilled; None = no class term.
        factors: P factors.
        activation: the student's.
        weights: of the terms.
        reduce: averages a tensor of counts over processes.

    Returns:
        0-d `bbox` (L1, summed over the 4 coordinates) and `giou` (1 - GIoU); with a mask `cls`
        (`class_divergence`) and `entropy` (its floor, no gradient). All >= 0 up to rounding.
    """
    pair_mask = matched >= 0
    rows = matched.clamp(min=0).unsqueeze(-1)
    boxes = student_boxes.gather(2, rows.expand(-1, -1, -1, 4))
    _, giou = iou_and_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target_boxes))
    values = {
        'bbox': weights.bbox * (boxes - target_boxes).abs().sum(-1),
        'giou': weights.giou * (1 - giou),
    }
    terms = means_over(values, pair_mask, count(pair_mask, target_boxes.dtype, reduce), factors)
    if cls_mask is not None:
        cls_mask = pair_mask & cls_mask
        logits = student_logits.gather(2, rows.expand(-1, -1, -1, student_logits.shape[-1]))
        values = {
            'cls': weights.cls * class_divergence(logits, targets, activation),
            'entropy': weights.cls * target_entropy(targets, activation),
        }
        found = means_over(values, cls_mask, count(cls_mask, targets.dtype, reduce), factors)
        terms.update(cls=found['cls'], entropy=found['entropy'].detach())
    return terms


def count(mask: Tensor, dtype: torch.dtype, reduce: Reduce) -> Tensor:
    """True entries of a mask (P, B, N), averaged over processes, as normalisers (P,)."""
    return nonzero(reduce(mask.sum((1, 2)).to(dtype)))


def means_over(
    terms: Dict[str, Tensor], mask: Tensor, normalisers: Tensor, factors: Tuple[float, ...]
) -> Dict[str, Tensor]:
    """Each term as the sum over P of factor * (sum of masked values / normaliser), 0-d.

    Args:
        terms: T tensors (P, B, N).
        mask: (P, B, N) bool, or (T, P, B, N), one per term.
        normalisers: (P,), or (T, P).
        factors: P numbers.
    """
    sums = torch.stack(list(terms.values())).masked_fill(~mask, 0).sum((2, 3))
    means = sums / normalisers
    if len(set(factors)) == 1:
        totals = factors[0] * means.sum(1)
    else:  # a tensor of the factors would force a host-device synchronisation
        totals = torch.stack([f * mean for f, mean in zip(factors, means.unbind(1))]).sum(0)
    return dict(zip(terms, totals.unbind()))
