"""Target-aware feature distillation.

A mask per query, (B, N, H, W), is never built: both forms of the method are linear or quadratic in
the queries, so the sum over queries moves inside and leaves (B, C) or (B, C, C).
"""

from dataclasses import dataclass
from typing import List, Literal, Optional, Sequence, Tuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .boxes import box_iou, cxcywh_to_xyxy, pad_objects
from .stages import Reduce, at_least_one

Similarity = Literal['dot', 'cosine']
Mask = Literal['per_query', 'summed', 'ground_truth']
Quality = Literal['matched_iou', 'max_iou']


@dataclass(frozen=True)
class MaskOptions:
    """Options of `query_quality` and `target_masks`; the defaults are the paper's.

    Attributes:
        similarity: of a query and a pixel, 'dot' or 'cosine'.
        mask: 'per_query' weights the error by every query's mask, 'summed' by the sum of the masks,
            'ground_truth' by the objects' boxes instead of the queries, see `object_masks`.
        quality: 'matched_iou' or 'max_iou', see `query_quality`.
        gamma: exponent of the score in Eq. 8, in [0, 1].
        topk: how many (query, class) scores 'max_iou' keeps.

    Raises:
        ValueError: unknown value, or gamma outside [0, 1].
    """

    similarity: Similarity = 'dot'
    mask: Mask = 'per_query'
    quality: Quality = 'matched_iou'
    gamma: float = 0.5
    topk: int = 100

    def __post_init__(self) -> None:
        for name, kind in (('similarity', Similarity), ('mask', Mask), ('quality', Quality)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f'{name} must be one of {get_args(kind)}, got {getattr(self, name)!r}'
                )
        if not 0 <= self.gamma <= 1:
            raise ValueError(f'gamma must lie in [0, 1], got {self.gamma}')


@torch.no_grad()
def query_quality(
    teacher_probs: Tensor,
    teacher_boxes: Tensor,
    gt_boxes: Sequence[Tensor],
    assignment: Optional[Tensor] = None,
    options: MaskOptions = MaskOptions(),
) -> Tensor:
    """Compute the quality score of each teacher query, the weight of its mask.

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
        options: `quality`, `gamma` and `topk`.

    Returns:
        (L, B, N), >= 0; at most 1 for 'matched_iou'. No gradient.

    Raises:
        ValueError: 'matched_iou' without an assignment.
    """
    corners = cxcywh_to_xyxy(teacher_boxes)
    gt_corners, exists = pad_objects(gt_boxes, corners.dtype)  # (B, M, 4), (B, M)
    if options.quality == 'max_iou':
        scores = _topk_scores(teacher_probs, options.topk)
        iou = box_iou(corners.unsqueeze(-2), gt_corners.unsqueeze(1))
        quality = scores * iou.masked_fill(~exists.unsqueeze(1), 0).amax(-1)
    else:
        if assignment is None:
            raise ValueError("quality 'matched_iou' needs the teacher's assignment")
        scores = teacher_probs.amax(-1)
        index = assignment.clamp(min=0).unsqueeze(-1).expand(-1, -1, -1, 4)
        matched = gt_corners.expand(index.shape[0], -1, -1, -1).gather(2, index)
        iou = box_iou(corners, matched)
        quality = scores**options.gamma * iou ** (1 - options.gamma)  # Eq. 8
        quality = quality.masked_fill(assignment < 0, 0)
    return torch.where(exists.any(-1, keepdim=True), quality, scores)


def feature_kd(
    student_feats: Sequence[Tensor],
    teacher_feats: Sequence[Tensor],
    masks: Sequence[Tensor],
    valid_masks: Optional[Sequence[Tensor]] = None,
    normalize: bool = False,
    reduce: Reduce = at_least_one,
) -> Tensor:
    """Pull the student's features to the teacher's where the masks say that it matters.

    Source: DETRDistill, Eq. 9, sum_i q_i / (M d H W) * || psi_i * (F_T - phi(F_S)) ||^2.
    Deviation: padded pixels are left out and H W counts valid pixels, levels are summed, images
    averaged. With `normalize` the loss neither falls with the number of queries nor grows with the
    scale of the features, and every image weighs alike: the mask of an image and level has mean 1,
    and the error is relative to the mean square of the teacher's features there.

    Convention: phi is applied by the caller; both sides have the teacher's C channels. Masks and
    the teacher carry no gradient.

    Args:
        student_feats: per level (B, C, H, W).
        teacher_feats: per level (B, C, H, W), same sizes.
        masks: per level (B, H, W) >= 0, see `target_masks` and `object_masks`.
        valid_masks: per level (B, H, W) bool, True = a pixel of the image. None: all.
        normalize: see above.
        reduce: averages the 0-d number of images over processes, and keeps it from being 0.

    Returns:
        0-d tensor >= 0, 0 when the features are equal.

    Raises:
        ValueError: shapes that differ, naming the level.
    """
    _check_shapes(student_feats, teacher_feats)
    sizes = [mask[0].numel() for mask in masks]

    def level_sums(values: Tensor) -> Tensor:  # (B, P) -> (B, levels)
        return torch.stack([part.sum(1) for part in values.split(sizes, 1)], 1)

    # all levels, one after the other: (B, C, P) and (B, P)
    student, teacher = _one_row(student_feats, 2), _one_row(teacher_feats, 2).detach()
    weights = _one_row(masks, 1).detach()
    valid = torch.ones_like(weights) if valid_masks is None else _one_row(valid_masks, 1)
    weights = weights * valid
    divisors = level_sums(valid).clamp(min=1)
    if normalize:
        mean, power = level_sums(weights), level_sums(teacher.square().mean(1) * valid)
        power = (power / divisors).clamp(min=1e-6)
        divisors = mean.masked_fill(mean == 0, 1) * power
    per_pixel = [part.expand(-1, size) for part, size in zip(divisors.split(1, 1), sizes)]
    weights = weights / torch.cat(per_pixel, 1)
    errors = (weights * F.mse_loss(student, teacher, reduction='none').mean(1)).sum()
    return errors / reduce(errors.new_full((), weights.shape[0]))


@torch.no_grad()
def target_masks(
    teacher_feats: Sequence[Tensor],
    teacher_queries: Tensor,
    quality: Tensor,
    valid_masks: Optional[Sequence[Tensor]] = None,
    options: MaskOptions = MaskOptions(),
) -> List[Tensor]:
    """Compute the per-pixel weight of the squared error in `feature_kd`.

    Source: DETRDistill, Eq. 7 and 9, sum_i q_i psi_i^2 / M ('per_query'), which is F_T^T A F_T with
    A = sum_i q_i Q_i Q_i^T / M; the released code's m^2, m = sum_i q_i psi_i clamped at 0.01 and
    divided by its maximum ('summed'). Stages are summed.

    Args:
        teacher_feats: per level (B, C, H, W).
        teacher_queries: (L, B, N, C) decoder outputs; stages are summed, the caller picks them.
        quality: (L, B, N), see `query_quality`.
        valid_masks: per level (B, H, W) bool, True = a pixel of the image. None: all.
        options: `similarity` and `mask`.

    Returns:
        Per level (B, H, W) >= 0, without gradient.

    Raises:
        ValueError: queries of another width than the features, naming the level.
    """
    for level, teacher in enumerate(teacher_feats):
        if teacher.shape[1] != teacher_queries.shape[-1]:
            raise ValueError(
                f'feature level {level} has {teacher.shape[1]} channels, '
                f'the teacher queries {teacher_queries.shape[-1]}'
            )
    if options.similarity == 'cosine':
        teacher_queries = F.normalize(teacher_queries, dim=-1)
    weighted = quality.unsqueeze(-1) * teacher_queries
    if options.mask == 'per_query':
        factors = torch.einsum('lbnc,lbnd->bcd', weighted, teacher_queries) / quality.shape[2]
    else:
        factors = weighted.sum(2).transpose(0, 1)  # (B, L, C)
    pixels = _one_row(teacher_feats, 2)
    if options.similarity == 'cosine':
        pixels = F.normalize(pixels, dim=1)
    product = factors @ pixels
    sizes = [teacher.shape[-2:] for teacher in teacher_feats]
    numbers = [size.numel() for size in sizes]
    if options.mask == 'per_query':
        mask = product.mul_(pixels).sum(1)
    else:  # the maximum is over the level of an image
        summed = product.clamp_(min=0.01)
        if valid_masks is not None:
            summed = summed * _one_row(valid_masks, 1).unsqueeze(1)
        peaks = [part.amax(-1, keepdim=True) for part in summed.split(numbers, -1)]
        peak = torch.cat([peak.expand(-1, -1, n) for peak, n in zip(peaks, numbers)], -1)
        mask = (summed / peak.clamp(min=0.01)).square().sum(1)
    return [part.unflatten(1, size) for part, size in zip(mask.split(numbers, 1), sizes)]


@torch.no_grad()
def object_masks(gt_boxes: Sequence[Tensor], sizes: Sequence[Tuple[int, int]]) -> List[Tensor]:
    """Mark the pixels that an object covers, wholly or in part.

    Source: none in DETRDistill; the idea of CLoCKDistill (2025), which distils the encoder's memory
    where objects are.

    Args:
        gt_boxes: per image (M_b, 4), cxcywh in [0, 1] of the padded image.
        sizes: (H, W) of each level.

    Returns:
        Per level (B, H, W), 1 where an object is and 0 elsewhere.
    """
    corners, exists = pad_objects(gt_boxes, gt_boxes[0].dtype)
    x1, y1, x2, y2 = corners.unsqueeze(-1).unbind(2)  # (B, M, 1)
    masks = []
    for height, width in sizes:
        columns, rows = (torch.arange(n, device=corners.device) for n in (width, height))
        in_column = (x1 * width < columns + 1) & (x2 * width > columns) & exists.unsqueeze(-1)
        in_row = (y1 * height < rows + 1) & (y2 * height > rows)
        counts = in_row.to(corners.dtype).transpose(1, 2) @ in_column.to(corners.dtype)
        masks.append(counts.clamp(max=1))
    return masks


def _topk_scores(probs: Tensor, topk: int) -> Tensor:
    """(L, B, N, K) -> (L, B, N): sum of a query's scores among the image's best `topk`."""
    flat = probs.flatten(2)
    values, indices = flat.topk(min(topk, flat.shape[-1]), dim=-1)
    kept = torch.zeros_like(flat).scatter(-1, indices, values)
    return kept.view_as(probs).sum(-1)


def _one_row(maps: Sequence[Tensor], dim: int) -> Tensor:
    """Put maps (..., H, W) of all levels one after the other, (..., P); `dim` is that of H."""
    return torch.cat([level.flatten(dim) for level in maps], dim)


def _check_shapes(student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]) -> None:
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
