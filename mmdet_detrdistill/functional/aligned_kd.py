"""Index-aligned distillation on the injected queries."""

from typing import Dict, Optional

import torch
from torch import Tensor

from .boxes import clamp_to_image
from .classes import soft_targets
from .pair_terms import Reduce, TermWeights, pair_terms
from .stages import add_terms, pick_stages, stage_pairs

PRESETS = {'paper': dict(negative_cls=True), 'released': dict(negative_cls=True)}


def aligned_kd(
    student_logits: Tensor,
    student_boxes: Tensor,
    teacher_logits: Tensor,
    teacher_boxes: Tensor,
    teacher_positive_mask: Tensor,
    *,
    negative_cls: bool = True,
    pairing: str = 'group',
    group_reduction: str = 'mean',
    student_activation: str = 'sigmoid',
    teacher_activation: str = 'sigmoid',
    cls_weight: float = 1.0,
    bbox_weight: float = 5.0,
    giou_weight: float = 2.0,
    student_mask: Optional[Tensor] = None,
    teacher_mask: Optional[Tensor] = None,
    teacher_classes: Optional[Tensor] = None,
    reduce: Reduce = torch.as_tensor,
) -> Dict[str, Tensor]:
    """Prediction i of the teacher supervises what the student makes of the teacher's query i.

    Source: none in DETRDistill; the idea of KD-DETR (CVPR 2024) and D3ETR (2022). Nothing is
    matched: both sides answered the same N queries.

    Convention: as in `logits_kd`; positives and negatives are normalised apart.

    Args:
        student_logits: (L_s, B, N, C_s), the student's answers to the teacher's queries.
        student_boxes: (L_s, B, N, 4), cxcywh in [0, 1].
        teacher_logits: (L_t, B, N, C_t).
        teacher_boxes: (L_t, B, N, 4).
        teacher_positive_mask: (L_t, B, N) bool, see `logits_kd`; likewise every option.

    Returns:
        0-d `cls`, `bbox`, `giou`, `neg_bbox`, `neg_giou` (`neg_cls`), all 0 when both sides agree,
        and `entropy`.

    Raises:
        ValueError: another number of queries on the two sides, or an unknown option.
    """
    if student_logits.shape[2] != teacher_logits.shape[2]:
        raise ValueError(
            f'the student answered {student_logits.shape[2]} queries, '
            f'the teacher {teacher_logits.shape[2]}'
        )
    pairs = stage_pairs(student_logits.shape[0], teacher_logits.shape[0], pairing, group_reduction)
    targets = soft_targets(teacher_logits, teacher_activation, student_activation, teacher_classes)
    target_boxes = clamp_to_image(teacher_boxes.detach())
    logits, boxes = (pick_stages(x, pairs.student) for x in (student_logits, student_boxes))
    targets, target_boxes = (pick_stages(x, pairs.teacher) for x in (targets, target_boxes))
    positive = pick_stages(teacher_positive_mask, pairs.teacher)
    taking_part = torch.ones_like(positive)
    if student_mask is not None:
        taking_part = taking_part & pick_stages(student_mask, pairs.student)
    if teacher_mask is not None:
        taking_part = taking_part & pick_stages(teacher_mask, pairs.teacher)
    own = torch.arange(student_logits.shape[2], device=student_logits.device).expand_as(positive)

    losses: Dict[str, Tensor] = {}
    for prefix, chosen, has_cls in (('', positive, True), ('neg_', ~positive, negative_cls)):
        terms = pair_terms(
            logits,
            boxes,
            targets,
            target_boxes,
            own.masked_fill(~(chosen & taking_part), -1),
            taking_part if has_cls else None,
            pairs.factors,
            activation=student_activation,
            weights=TermWeights(cls_weight, bbox_weight, giou_weight),
            reduce=reduce,
        )
        add_terms(losses, dict(entropy=terms.pop('entropy')) if 'entropy' in terms else {})
        add_terms(losses, {prefix + name: value for name, value in terms.items()})
    return losses
