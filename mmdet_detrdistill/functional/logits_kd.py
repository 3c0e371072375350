"""Hungarian-matching logits distillation."""

from typing import Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from .boxes import clamp_to_image, cxcywh_to_xyxy, iou_and_giou
from .classes import class_divergence, soft_targets, target_entropy
from .contrast import contrast
from .matching import match, matching_cost, name_non_finite
from .stages import add_terms, stage_groups

MATCHINGS = ('separate', 'joint')
REDUCTIONS = ('mean', 'sum')
PRESETS = {
    'paper': dict(matching='separate', negative_cls=False),
    'released': dict(matching='joint', negative_cls=True),
}


def logits_kd(
    student_logits: Tensor,
    student_boxes: Tensor,
    teacher_logits: Tensor,
    teacher_boxes: Tensor,
    teacher_positive_mask: Tensor,
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
    reduce: Callable[[Tensor], Tensor] = torch.as_tensor,
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
            assignment gave an object.
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
        reduce: averages a 0-d count over processes.

    Returns:
        0-d tensors `cls`, `bbox`, `giou` and, when separate, `neg_bbox`, `neg_giou` (`neg_cls`);
        all 0 when the sets are equal. `contrast` when asked for. `entropy` is the detached floor that was taken off the
        class terms.

    Raises:
        ValueError: unknown option; NaN or Inf, naming side, image and stage.
    """
    _check_option('matching', matching, MATCHINGS)
    _check_option('group_reduction', group_reduction, REDUCTIONS)
    targets = soft_targets(teacher_logits, teacher_activation, student_activation)
    goals = clamp_to_image(teacher_boxes.detach())
    if contrast_weight and (student_embeds is None or teacher_embeds is None):
        raise ValueError('contrast_weight needs student_embeds and teacher_embeds')
    if teacher_mask is None:
        teacher_mask = torch.ones_like(teacher_positive_mask)
    positive = teacher_positive_mask & teacher_mask
    if matching == 'joint':  # (prefix, queries to match, queries whose class is distilled)
        sets = [('', teacher_mask, teacher_mask if negative_cls else positive)]
    else:  # Eq. 3, then Eq. 4
        negative = teacher_mask & ~teacher_positive_mask
        sets = [('', positive, positive), ('neg_', negative, negative if negative_cls else None)]

    groups = stage_groups(student_logits.shape[0], teacher_logits.shape[0], pairing)
    student_stages, teacher_stages, scales = _flatten_groups(groups, group_reduction)
    cost = matching_cost(
        student_logits[student_stages],
        student_boxes[student_stages],
        targets[teacher_stages],
        goals[teacher_stages],
        activation=student_activation,
        cls_weight=cls_weight,
        bbox_weight=bbox_weight,
        giou_weight=giou_weight,
    )
    rows = None if student_mask is None else student_mask[student_stages]

    losses: Dict[str, Tensor] = {}
    for prefix, matched_mask, cls_mask in sets:
        try:
            matched = match(cost, rows, matched_mask[teacher_stages])
        except ValueError as error:
            found = name_non_finite('student', student_logits, student_boxes)
            found = found or name_non_finite('teacher', teacher_logits, teacher_boxes)
            raise ValueError(f'{error}: {found or "the costs overflowed"}') from error
        for index, scale in enumerate(scales):
            student, teacher = student_stages[index], teacher_stages[index]
            terms = _pair_terms(
                student_logits[student],
                student_boxes[student],
                targets[teacher],
                goals[teacher],
                matched[index],
                None if cls_mask is None else cls_mask[teacher],
                student_activation,
                reduce,
            )
            if contrast_weight and cls_mask is not None:
                embeds = contrast(student_embeds[student], teacher_embeds[teacher], matched[index])
                pair_mask = (matched[index] >= 0) & cls_mask[teacher]
                value = contrast_weight * _mean_over(embeds, pair_mask, reduce)
                add_terms(losses, dict(contrast=value), scale)
            entropy = terms.pop('entropy', None)
            if entropy is not None:
                add_terms(losses, dict(entropy=entropy), cls_weight * scale)
            weights = dict(cls=cls_weight, bbox=bbox_weight, giou=giou_weight)
            weighted = {prefix + name: weights[name] * value for name, value in terms.items()}
            add_terms(losses, weighted, scale)
    return losses


def _pair_terms(
    student_logits: Tensor,
    student_boxes: Tensor,
    targets: Tensor,
    goals: Tensor,
    matched: Tensor,
    cls_mask: Optional[Tensor],
    activation: str,
    reduce: Callable[[Tensor], Tensor],
) -> Dict[str, Tensor]:
    """Unweighted terms of one stage: (B, N_s, .), (B, N_t, .), matched (B, N_t) -> 0-d tensors."""
    pair_mask = matched >= 0
    rows = matched.clamp(min=0).unsqueeze(-1)
    boxes = student_boxes.gather(1, rows.expand(-1, -1, 4))
    _, giou = iou_and_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(goals))
    terms = {
        'bbox': _mean_over((boxes - goals).abs().sum(-1), pair_mask, reduce),
        'giou': _mean_over(1 - giou, pair_mask, reduce),
    }
    if cls_mask is not None:
        logits = student_logits.gather(1, rows.expand(-1, -1, student_logits.shape[-1]))
        divergence = class_divergence(logits, targets, activation)
        terms['cls'] = _mean_over(divergence, pair_mask & cls_mask, reduce)
        entropy = target_entropy(targets, activation)
        terms['entropy'] = _mean_over(entropy, pair_mask & cls_mask, reduce)
    return terms


def _mean_over(values: Tensor, mask: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum of the masked values over max(number of True, averaged over processes, 1)."""
    count = reduce(mask.sum().to(values.dtype)).clamp(min=1)
    return values.masked_fill(~mask, 0).sum() / count


def _flatten_groups(
    groups: List[List[int]], reduction: str
) -> Tuple[List[int], List[int], List[float]]:
    """Student stage, teacher stage and factor of every pair of stages."""
    pairs = [(student, teacher) for student, group in enumerate(groups) for teacher in group]
    scales = [1 / len(groups[student]) if reduction == 'mean' else 1.0 for student, _ in pairs]
    return [student for student, _ in pairs], [teacher for _, teacher in pairs], scales


def _check_option(name: str, value: str, valid: Tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f'{name} must be one of {valid}, got {value!r}')
