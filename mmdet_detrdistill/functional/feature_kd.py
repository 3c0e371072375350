"""Target-aware feature distillation.

A mask per query, (B, N, H, W), is never built: both forms of the method are linear or quadratic in
the queries, so the sum over queries moves inside and leaves (B, C) or (B, C, C). Pixels are worked
off in pieces, so that no temporary is as large as a feature map.
"""

from typing import List, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .boxes import cxcywh_to_xyxy, iou_and_giou
from .pair_terms import Reduce
from .weighted_error import pieces, weighted_squared_error

SIMILARITIES = ('dot', 'cosine')
MASKS = ('per_query', 'summed')
QUALITIES = ('matched_iou', 'max_iou')
PRESETS = {
    'paper': dict(
        similarity='dot', mask='per_query', quality='matched_iou', stages='last', source='encoder',
        exclude_padding=True,
    ),
    'released': dict(
        similarity='cosine', mask='summed', quality='max_iou', stages='all', source='neck',
        exclude_padding=False,
    ),
}  # fmt: skip


@torch.no_grad()
def query_quality(
    teacher_probs: Tensor,
    teacher_boxes: Tensor,
    gt_boxes: Sequence[Tensor],
    assignment: Optional[Tensor] = None,
    *,
    quality: str = 'matched_iou',
    gamma: float = 0.5,
    topk: int = 100,
) -> Tensor:
    """How far each teacher query can be trusted, the weight of its mask.

    Source: DETRDistill, Eq. 8, q = c^gamma * IoU^(1 - gamma) ('matched_iou': c is the best class
    score, IoU is with the object of the teacher's own assignment, unassigned queries get 0).
    Deviation: gamma is not printed (0.5 here). The released code ('max_iou') takes the best `topk`
    (query, class) scores of an image times the best IoU with any object.
    An image without objects uses the scores alone, in both forms.

    Args:
        teacher_probs: (L, B, N, K) foreground class probabilities.
        teacher_boxes: (L, B, N, 4), cxcywh in [0, 1].
        gt_boxes: per image (M_b, 4), cxcywh in [0, 1].
        assignment: (L, B, N) int64, the object of each query or -1; 'matched_iou' needs it.
        quality: 'matched_iou' or 'max_iou'.
        gamma: exponent of the score in Eq. 8.
        topk: how many (query, class) scores 'max_iou' keeps.

    Returns:
        (L, B, N), >= 0; at most 1 for 'matched_iou'. No gradient.

    Raises:
        ValueError: unknown quality, or 'matched_iou' without an assignment.
    """
    if quality not in QUALITIES:
        raise ValueError(f'quality must be one of {QUALITIES}, got {quality!r}')
    if quality == 'matched_iou':
        if assignment is None:
            raise ValueError("quality 'matched_iou' needs the teacher's assignment")
        scores = teacher_probs.amax(-1)
    else:
        scores = _topk_scores(teacher_probs, topk)
    weights = torch.zeros_like(scores)
    corners = cxcywh_to_xyxy(teacher_boxes)
    for image, objects in enumerate(gt_boxes):
        if objects.shape[0] == 0:
            weights[:, image] = scores[:, image]
            continue
        iou, _ = iou_and_giou(corners[:, image].unsqueeze(-2), cxcywh_to_xyxy(objects))
        if quality == 'max_iou':
            weights[:, image] = scores[:, image] * iou.amax(-1)
            continue
        assert assignment is not None  # checked above for 'matched_iou'
        found = assignment[:, image]
        own_iou = iou.gather(-1, found.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        value = scores[:, image] ** gamma * own_iou ** (1 - gamma)  # Eq. 8
        weights[:, image] = value.masked_fill(found < 0, 0)
    return weights


def feature_kd(
    student_feats: Sequence[Tensor],
    teacher_feats: Sequence[Tensor],
    teacher_queries: Tensor,
    quality: Tensor,
    valid_masks: Optional[Sequence[Tensor]] = None,
    *,
    similarity: str = 'dot',
    mask: str = 'per_query',
    max_weighted: Optional[Sequence[int]] = None,
    reduce: Reduce = torch.as_tensor,
) -> Tensor:
    """Make the student's features equal the teacher's where the teacher's queries look.

    Source: DETRDistill, Eq. 7 (mask psi_i = F_T . Q_i) and Eq. 9
    sum_i q_i / (M d H W) * || psi_i * (F_T - phi(F_S)) ||^2, with M = N_t queries ('per_query').
    Deviation: padded pixels are left out and H W counts valid pixels, levels are summed, images
    averaged. The released code ('summed', 'cosine') sums the masks first, clamps them at 0.01,
    divides by their maximum, and takes the mean squared error of the masked features.

    Convention: phi is applied by the caller; both sides have the teacher's C channels. Masks and
    the teacher carry no gradient.

    Args:
        student_feats: per level (B, C, H, W).
        teacher_feats: per level (B, C, H, W), same sizes.
        teacher_queries: (L, B, N, C) decoder outputs; stages are summed, the caller picks them.
        quality: (L, B, N), see `query_quality`.
        valid_masks: per level (B, H, W) bool, True = a pixel of the image. None: all.
        similarity: 'dot' or 'cosine'.
        mask: 'per_query' or 'summed'.
        max_weighted: per image, at most so many queries of a stage have `quality` > 0, for a
            shorter way to the same value. None: all may.
        reduce: averages the 0-d number of images over processes.

    Returns:
        0-d tensor >= 0, 0 when the features are equal.

    Raises:
        ValueError: unknown option, or shapes that differ, naming the level.
    """
    _check_shapes(student_feats, teacher_feats, teacher_queries)
    masks = target_masks(
        teacher_feats,
        teacher_queries,
        quality,
        valid_masks,
        similarity=similarity,
        mask=mask,
        max_weighted=max_weighted,
    )
    total = student_feats[0].new_zeros(())
    for level, (student, teacher) in enumerate(zip(student_feats, teacher_feats)):
        pixels = teacher.detach().flatten(2)  # (B, C, HW)
        weights = masks[level].flatten(1)
        if valid_masks is None:
            weights = weights / pixels.shape[2]
        else:
            valid = valid_masks[level].to(pixels.dtype).flatten(1)
            weights = weights * valid / valid.sum(1, keepdim=True).clamp(min=1)
        weights = weights / pixels.shape[1]
        total = total + weighted_squared_error(student.flatten(2), pixels, weights)
    return total / reduce(total.new_full((), teacher_queries.shape[1]))


def target_masks(
    teacher_feats: Sequence[Tensor],
    teacher_queries: Tensor,
    quality: Tensor,
    valid_masks: Optional[Sequence[Tensor]] = None,
    *,
    similarity: str = 'dot',
    mask: str = 'per_query',
    max_weighted: Optional[Sequence[int]] = None,
) -> List[Tensor]:
    """How much the squared error of each pixel counts in `feature_kd`: what its masks come to.

    Source: DETRDistill, Eq. 7 and 9, sum_i q_i psi_i^2 / M ('per_query'); the released code's m^2,
    m = sum_i q_i psi_i clamped at 0.01 and divided by its maximum ('summed'). Stages are summed.

    Args: those of `feature_kd`, with the same defaults.

    Returns:
        Per level (B, H, W) >= 0, without gradient.

    Raises:
        ValueError: unknown option.
    """
    if similarity not in SIMILARITIES:
        raise ValueError(f'similarity must be one of {SIMILARITIES}, got {similarity!r}')
    if mask not in MASKS:
        raise ValueError(f'mask must be one of {MASKS}, got {mask!r}')
    queries = teacher_queries.detach()
    if similarity == 'cosine':
        queries = F.normalize(queries, dim=-1)
    if mask == 'per_query':
        mask_factors = [
            _per_query(
                queries[:, image],
                quality[:, image],
                queries.shape[2] if max_weighted is None else max_weighted[image],
            )
            for image in range(queries.shape[1])
        ]
    else:
        mask_factors = list(torch.einsum('lbn,lbnc->blc', quality, queries).unbind())
    found = []
    for level, teacher in enumerate(teacher_feats):
        pixels = teacher.detach().flatten(2)  # (B, C, HW)
        valid = None if valid_masks is None else valid_masks[level].to(pixels.dtype).flatten(1)
        attention = [
            _attention(factor, image, similarity, mask, None if valid is None else valid[number])
            for number, (factor, image) in enumerate(zip(mask_factors, pixels))
        ]
        found.append(torch.stack(attention).reshape(-1, *teacher.shape[-2:]))
    return found


def _per_query(queries: Tensor, quality: Tensor, num_weighted: int) -> Tensor:
    """The image's queries as R (r, C), sum_i q_i (F . Q_i)^2 / M = || R F ||^2.

    Where few queries have a weight, r is their number. Else A (C, C) comes back in the place of
    R, A = sum_i q_i Q_i Q_i^T / M with F^T A F the same, whatever the number of queries (L, M).
    """
    num_stages, num_queries, channels = queries.shape
    count = min(num_weighted, num_queries)
    if num_stages * count >= channels:
        return torch.einsum('ln,lnc,lnd->cd', quality, queries, queries) / num_queries
    values, chosen = quality.topk(count, dim=1)
    picked = queries.gather(1, chosen.unsqueeze(-1).expand(-1, -1, channels))
    return (picked * (values / num_queries).sqrt().unsqueeze(-1)).flatten(0, 1)


@torch.no_grad()
def _attention(
    factor: Tensor, pixels: Tensor, similarity: str, mask: str, valid: Optional[Tensor]
) -> Tensor:
    """How much the pixels (C, P) of one image and level count, (P,)."""
    rows = 1 if mask == 'per_query' else factor.shape[0]
    sums = pixels.new_empty(rows, pixels.shape[1])
    for part in pieces(*pixels.shape):
        piece = pixels[:, part]
        if mask == 'summed':
            sums[:, part] = factor @ piece
        elif factor.shape[0] == factor.shape[1]:  # F^T A F
            sums[0, part] = (factor @ piece).mul_(piece).sum(0)
        else:
            sums[0, part] = (factor @ piece).square_().sum(0)
        if similarity == 'cosine':
            norm = piece.norm(dim=0).clamp(min=1e-12)
            sums[:, part] /= norm.square() if mask == 'per_query' else norm
    return sums[0] if mask == 'per_query' else _summed_attention(sums, valid)


def _summed_attention(masks: Tensor, valid: Optional[Tensor]) -> Tensor:
    """Released form, (L, P) sums of cosines -> (P,) sum over stages of m^2."""
    masks = masks.clamp(min=0.01)
    if valid is not None:
        masks = masks * valid
    peak = masks.amax(-1, keepdim=True).clamp(min=0.01)
    return (masks / peak).square().sum(0)


def _topk_scores(probs: Tensor, topk: int) -> Tensor:
    """(L, B, N, K) -> (L, B, N): sum of a query's scores among the image's best `topk`."""
    flat = probs.flatten(2)
    values, indices = flat.topk(min(topk, flat.shape[-1]), dim=-1)
    kept = torch.zeros_like(flat).scatter(-1, indices, values)
    return kept.view_as(probs).sum(-1)


def _check_shapes(
    student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor], queries: Tensor
) -> None:
    if len(student_feats) != len(teacher_feats) or not student_feats:
        raise ValueError(
            f'got {len(student_feats)} student and {len(teacher_feats)} teacher feature levels'
        )
    for level, (student, teacher) in enumerate(zip(student_feats, teacher_feats)):
        if student.shape != teacher.shape:
            raise ValueError(
                f'feature level {level}: student {tuple(student.shape)}, '
                f'teacher {tuple(teacher.shape)}; bring the student to the teacher first (phi)'
            )
        if teacher.shape[1] != queries.shape[-1]:
            raise ValueError(
                f'feature level {level} has {teacher.shape[1]} channels, '
                f'the teacher queries {queries.shape[-1]}'
            )
