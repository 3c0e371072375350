"""Hungarian-matching logits distillation."""

from typing import Dict, List, Optional, Tuple

import torch
from torch import Tensor

from .boxes import clamp_to_image
from .classes import soft_targets
from .contrast import contrast
from .matching import match_sets, matching_cost, name_non_finite
from .pair_terms import Reduce, TermWeights, count, means_over, pair_terms
from .stages import add_terms, pick_stages, stage_pairs

MATCHINGS = ('separate', 'joint')
PRESETS = {
    'paper': dict(matching='separate', negative_cls=False),
    'released': dict(matching='joint', negative_cls=True),
}


def needs_positives(matching: str, negative_cls: bool) -> bool:
    """Whether positives and negatives are told apart, so that `teacher_positive_mask` matters."""
    return matching != 'joint' or not negative_cls


def logits_kd(
    student_logits: Tensor,
    student_boxes: Tensor,
    teacher_logits: Tensor,
    teacher_boxes: Tensor,
    teacher_positive_mask: Optional[Tensor],
    *,
    matching: str = 'separate',
    negative_cls: bool = False,
    pairing: str = 'group',
    group_reduction: str = 'mean',
    student_activation: str = 'sigmoid',
    teacher_activation: str = 'sigmoid',
    cls_weight: float = 1.0,
    bbox_weight: float = 5.0,
    giou_weight: float = 2.0,
    contrast_weight: float = 0.0,
    student_embeds: Optional[Tensor] = None,
    teacher_embeds: Optional[Tensor] = None,
    student_mask: Optional[Tensor] = None,
    teacher_mask: Optional[Tensor] = None,
    teacher_classes: Optional[Tensor] = None,
    reduce: Reduce = torch.as_tensor,
) -> Dict[str, Tensor]:
    """Supervise the student with the teacher's predictions as soft pseudo ground truth.

    Source: DETRDistill, Eq. 3 (positives), Eq. 4 (negatives), Fig. 5 (progressive).
    Deviation: the printed text does not say how a group of teacher stages is reduced (mean here)
    nor how sums are normalised (number of pairs here); the released code matches all teacher
    queries jointly (`matching='joint'`) and distils the class of every pair (`negative_cls=True`).

    Convention: boxes are cxcywh in [0, 1] of the unpadded image; the teacher's are cut at the image
    border first. Every term is a sum over matched pairs divided by the number of pairs it sums
    over (at least 1), and summed over student stages. The teacher gets no gradient.

    Args:
        student_logits: (L_s, B, N_s, C_s).
        student_boxes: (L_s, B, N_s, 4).
        teacher_logits: (L_t, B, N_t, C_t).
        teacher_boxes: (L_t, B, N_t, 4).
        teacher_positive_mask: (L_t, B, N_t) bool, the teacher queries that the teacher's own
            assignment gave an object. May be None for what `needs_positives` says no to.
        matching: 'separate' assigns positives and negatives apart, 'joint' all at once.
        negative_cls: distil the class of negatives too, not only their box.
        pairing: teacher stages of a student stage, see `stage_groups`.
        group_reduction: 'mean' or 'sum' over the teacher stages of a group.
        student_activation: 'sigmoid' or 'softmax'; likewise `teacher_activation`.
        cls_weight: weight in cost and loss; likewise `bbox_weight` and `giou_weight`.
        contrast_weight: weight of `contrast` on the matched queries' embeddings (the released
            code's extra term, 0.2 there); 0 leaves it out.
        student_embeds: (L_s, B, N_s, D) and `teacher_embeds` (L_t, B, N_t, D), for the contrast.
        student_mask: (L_s, B, N_s) bool, True = takes part. None: all.
        teacher_mask: (L_t, B, N_t) bool, likewise.
        teacher_classes: see `soft_targets`; the student's logits hold these classes only.
        reduce: averages a tensor of counts over processes.

    Returns:
        0-d tensors `cls`, `bbox`, `giou` and, when separate, `neg_bbox`, `neg_giou` (`neg_cls`);
        all 0 when the sets are equal. `contrast` when asked for. `entropy` is the detached floor
        that was taken off the class terms.

    Raises:
        ValueError: unknown option; NaN or Inf, naming side, image and stage.
    """
    if matching not in MATCHINGS:
        raise ValueError(f'matching must be one of {MATCHINGS}, got {matching!r}')
    targets = soft_targets(teacher_logits, teacher_activation, student_activation, teacher_classes)
    target_boxes = clamp_to_image(teacher_boxes.detach())
    if contrast_weight and (student_embeds is None or teacher_embeds is None):
        raise ValueError('contrast_weight needs student_embeds and teacher_embeds')
    if teacher_mask is None:
        teacher_mask = torch.ones_like(target_boxes[..., 0], dtype=torch.bool)
    # (prefix, queries to match, queries whose class is distilled)
    sets: List[Tuple[str, Tensor, Optional[Tensor]]]
    if teacher_positive_mask is None:
        if needs_positives(matching, negative_cls):
            raise ValueError(f'matching {matching!r} needs teacher_positive_mask')
        sets = [('', teacher_mask, teacher_mask)]
    else:
        positive = teacher_positive_mask & teacher_mask
        negative = teacher_mask & ~teacher_positive_mask
        if matching == 'joint':
            sets = [('', teacher_mask, teacher_mask if negative_cls else positive)]
        else:  # Eq. 3, then Eq. 4
            sets = [
                ('', positive, positive),
                ('neg_', negative, negative if negative_cls else None),
            ]

    weights = TermWeights(cls_weight, bbox_weight, giou_weight)
    pairs = stage_pairs(student_logits.shape[0], teacher_logits.shape[0], pairing, group_reduction)
    logits, boxes = (pick_stages(x, pairs.student) for x in (student_logits, student_boxes))
    targets, target_boxes = (pick_stages(x, pairs.teacher) for x in (targets, target_boxes))
    rows = None if student_mask is None else pick_stages(student_mask, pairs.student)
    cost = matching_cost(
        logits,
        boxes,
        targets,
        target_boxes,
        activation=student_activation,
        cls_weight=weights.cls,
        bbox_weight=weights.bbox,
        giou_weight=weights.giou,
    )
    # 0 * Inf is NaN: a sigmoid or the clamp would hide an infinite teacher from the matching.
    hidden = 0 * (teacher_logits.sum(-1) + teacher_boxes.sum(-1)).detach()
    cost += pick_stages(hidden, pairs.teacher).unsqueeze(-2)
    columns = [pick_stages(chosen, pairs.teacher) for _, chosen, _ in sets]
    try:
        every_match = match_sets(cost, rows, columns)
    except ValueError as error:
        found = name_non_finite('student', student_logits, student_boxes)
        found = found or name_non_finite('teacher', teacher_logits, teacher_boxes)
        raise ValueError(found or str(error)) from error
    losses: Dict[str, Tensor] = {}
    for (prefix, _, classified), matched in zip(sets, every_match):
        terms = pair_terms(
            logits,
            boxes,
            targets,
            target_boxes,
            matched,
            None if classified is None else pick_stages(classified, pairs.teacher),
            pairs.factors,
            activation=student_activation,
            weights=weights,
            reduce=reduce,
        )
        if contrast_weight and student_embeds is not None and teacher_embeds is not None:
            own = pick_stages(student_embeds, pairs.student)
            other = pick_stages(teacher_embeds, pairs.teacher)
            value = {'contrast': contrast_weight * contrast(own, other, matched)}
            normalisers = count(matched >= 0, own.dtype, reduce)
            add_terms(losses, means_over(value, matched >= 0, normalisers, pairs.factors))
        add_terms(losses, dict(entropy=terms.pop('entropy')) if 'entropy' in terms else {})
        add_terms(losses, {prefix + name: value for name, value in terms.items()})
    return losses
