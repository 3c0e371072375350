"""Index-aligned distillation on the injected queries."""

from dataclasses import dataclass
from typing import Dict, Optional

import torch
from torch import Tensor

from .classes import foreground_probs
from .logits_kd import PairOptions, Predictions, QuerySet, pair_stages, pair_values, set_terms
from .stages import Reduce, at_least_one, pick_stages


@dataclass(frozen=True)
class AlignedKDOptions(PairOptions):
    """Options of `aligned_kd`, see `PairOptions`."""

    negative_cls: bool = True


def aligned_kd(
    student: Predictions,
    teacher: Predictions,
    teacher_positive_mask: Optional[Tensor],
    options: PairOptions = AlignedKDOptions(),
    reduce: Reduce = at_least_one,
    by_confidence: bool = False,
) -> Dict[str, Tensor]:
    """Supervise the student's prediction for query i with the teacher's prediction i.

    Source: none in DETRDistill; the idea of KD-DETR (CVPR 2024) and D3ETR (2022). Nothing is
    matched: both sides answered the same N queries.

    Convention: as in `logits_kd`; positives and negatives are normalised apart. With weights a term
    is a weighted mean; KD-DETR gives the weights and no normaliser.

    Args:
        student: predictions for the injected queries.
        teacher: predictions for the same queries.
        teacher_positive_mask: (L_t, B, N) bool, see `logits_kd`. None: all queries are one set, and
            the class of each is distilled.
        options: see `AlignedKDOptions`.
        reduce: as in `logits_kd`.
        by_confidence: weight each query with the teacher's highest class score for it (KD-DETR,
            arXiv 2211.08071, section 3).

    Returns:
        0-d `cls`, `bbox`, `giou`, with positives also `neg_bbox`, `neg_giou` (`neg_cls`), all 0
        when both sides predict the same and no box leaves the image, and `entropy`.

    Raises:
        ValueError: another number of queries on the two sides, or an unknown option.
    """
    counts = student.logits.shape[2], teacher.logits.shape[2]
    if counts[0] != counts[1]:
        raise ValueError(f'the student answered {counts[0]} queries, the teacher {counts[1]}')
    stages = pair_stages(student, teacher, options)
    taking_part = stages.teacher_mask
    if stages.student_mask is not None:
        taking_part = taking_part & stages.student_mask
    indices = torch.arange(counts[0], device=taking_part.device).expand_as(taking_part)
    matched = indices.masked_fill(~taking_part, -1)
    sets = [QuerySet('', taking_part, taking_part)]
    if teacher_positive_mask is not None:
        positive = pick_stages(teacher_positive_mask, stages.pairs.teacher)
        sets = [
            QuerySet('', positive, positive),
            QuerySet('neg_', ~positive, ~positive if options.negative_cls else None),
        ]
    weights = None
    if by_confidence:
        scores = foreground_probs(teacher.logits.detach(), teacher.activation)
        scores = scores if teacher.classes is None else scores[..., teacher.classes]
        weights = pick_stages(scores.amax(-1), stages.pairs.teacher)
    values = pair_values(stages, matched, student.activation, options)
    return set_terms(values, matched, sets, stages.pairs.factors, reduce, weights)
