"""Module of `functional.feature_kd`."""

from typing import Any, ClassVar, Dict, List, Optional, Sequence, Tuple

from torch import Tensor, nn

from ..detectors import DetectorAdapter
from ..detectors.pair import DistillPair
from ..functional.classes import foreground_probs
from ..functional.feature_kd import (
    MASKS,
    PRESETS,
    QUALITIES,
    SIMILARITIES,
    feature_kd,
    query_quality,
)
from ..registry import register
from .base import DistillLoss, as_float, full_precision, reduce_count


@register('MODELS')
class FeatureKDLoss(DistillLoss):
    """Target-aware feature distillation, see `functional.feature_kd` and `query_quality`.

    A learned 1 x 1 convolution (phi of Eq. 9) brings the student's channels to the teacher's when
    they differ. Levels are paired by their map size, that is by their stride.

    Args:
        loss_weight: factor.
        preset: 'paper' or 'released'.
        stages: decoder stages whose queries make masks, 'last' or 'all'.
        source: distilled maps, 'encoder' output or 'neck' output.
        exclude_padding: leave padded pixels out.
    """

    choices: ClassVar = dict(
        similarity=SIMILARITIES,
        mask=MASKS,
        quality=QUALITIES,
        stages=('last', 'all'),
        source=('encoder', 'neck'),
    )

    def __init__(
        self,
        loss_weight: float = 1.0,
        preset: str = 'paper',
        similarity: Optional[str] = None,
        mask: Optional[str] = None,
        quality: Optional[str] = None,
        gamma: float = 0.5,
        topk: int = 100,
        stages: Optional[str] = None,
        source: Optional[str] = None,
        exclude_padding: Optional[bool] = None,
    ) -> None:
        super().__init__(
            loss_weight,
            preset,
            PRESETS,
            similarity=similarity,
            mask=mask,
            quality=quality,
            gamma=gamma,
            topk=topk,
            stages=stages,
            source=source,
            exclude_padding=exclude_padding,
        )
        self.phi: nn.Module = nn.Identity()

    def prepare(self, student: DetectorAdapter, teacher: DetectorAdapter) -> None:
        if student.embed_dims != teacher.embed_dims:
            self.phi = nn.Conv2d(student.embed_dims, teacher.embed_dims, kernel_size=1)

    def assigned_stages(self, num_student: int, num_teacher: int) -> Sequence[int]:
        if self.options['quality'] != 'matched_iou':
            return ()
        return [num_teacher - 1] if self.options['stages'] == 'last' else range(num_teacher)

    def forward(self, pair: DistillPair) -> Dict[str, Tensor]:
        student = pair.student_forward.state
        levels = paired_levels(student.sizes, pair.teacher_forward.state.sizes)
        encoded = self.options['source'] == 'encoder'
        maps = student.memory_maps() if encoded else student.features
        inputs = self.mask_inputs(pair)
        with full_precision(inputs['teacher_queries']):
            value = feature_kd(
                [self.phi(as_float(maps[own])) for own, _ in levels], **inputs, reduce=reduce_count
            )
        return {'': self.loss_weight * value}

    def mask_inputs(self, pair: DistillPair, stages: Optional[slice] = None) -> Dict[str, Any]:
        """What `functional.target_masks` takes to make the masks of this loss.

        Args:
            stages: the teacher's decoder stages; None: those of the option.
        """
        options = self.options
        teacher = pair.teacher_forward.state
        levels = paired_levels(pair.student_forward.state.sizes, teacher.sizes)
        maps = teacher.memory_maps() if options['source'] == 'encoder' else teacher.features
        valid = teacher.valid_masks() if options['exclude_padding'] else None
        last = options['stages'] == 'last'
        picked = stages or (slice(-1, None) if last else slice(None))

        outputs = pair.teacher_forward.outputs
        _, gt_boxes, _ = pair.ground_truth
        matched = options['quality'] == 'matched_iou'
        probs = foreground_probs(outputs.logits[picked], pair.teacher.activation)
        if pair.teacher_classes is not None:
            probs = probs[..., pair.teacher_classes]
        weights = query_quality(
            probs,
            outputs.boxes[picked],
            gt_boxes,
            pair.teacher_assignment[picked] if matched else None,
            quality=options['quality'],
            gamma=options['gamma'],
            topk=options['topk'],
        )
        if outputs.query_mask is not None:
            weights = weights * outputs.query_mask[picked]
        queries = as_float(outputs.hidden_states[picked])
        return dict(
            teacher_feats=[as_float(maps[other]) for _, other in levels],
            teacher_queries=queries,
            quality=weights.to(queries.dtype),
            valid_masks=None if valid is None else [valid[other] for _, other in levels],
            similarity=options['similarity'],
            mask=options['mask'],
            max_weighted=[
                (boxes.shape[0] or queries.shape[2]) if matched else options['topk']
                for boxes in gt_boxes
            ],
        )


def paired_levels(
    student_sizes: Tuple[Tuple[int, int], ...], teacher_sizes: Tuple[Tuple[int, int], ...]
) -> List[Tuple[int, int]]:
    """Levels of equal (H, W), that is of equal stride: (student level, teacher level) pairs.

    Each level has one partner at most: on a small image two strides may give maps of equal size.

    Raises:
        ValueError: no level is shared.
    """
    free = list(range(len(teacher_sizes)))
    pairs = []
    for own, size in enumerate(student_sizes):
        other = next((level for level in free if teacher_sizes[level] == size), None)
        if other is not None:
            free.remove(other)
            pairs.append((own, other))
    if not pairs:
        raise ValueError(
            f'no feature level of equal stride: student maps are {list(student_sizes)}, teacher '
            f'maps {list(teacher_sizes)} (H, W). Set loss_feature_kd=None or change a neck.'
        )
    return pairs
