"""Module of `functional.feature_kd`."""

from dataclasses import dataclass
from typing import Any, ClassVar, Dict, List, Literal, Mapping, Optional, Sequence, Tuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..detectors import DetectorAdapter
from ..detectors.levels import describe_strides
from ..detectors.pair import DistillPair
from ..functional.classes import foreground_probs
from ..functional.feature_kd import (
    MaskOptions,
    feature_kd,
    object_masks,
    query_quality,
    target_masks,
)
from ..functional.stages import scaled
from ..registry import register
from .base import DistillLoss, as_float, full_precision, reduce_count


@dataclass(frozen=True)
class FeatureKDOptions(MaskOptions):
    """Options of `FeatureKDLoss`, beside those of `MaskOptions`; the defaults are the paper's.

    Attributes:
        stages: decoder stages whose queries make masks, 'last' or 'all'.
        source: distilled maps, 'encoder' output or 'neck' output.
        exclude_padding: leave padded pixels out.
        normalize: give every image the same weight, whatever the number of queries and the scale of
            the teacher's features, see `feature_kd`.
    """

    stages: Literal['last', 'all'] = 'last'
    source: Literal['encoder', 'neck'] = 'encoder'
    exclude_padding: bool = True
    normalize: bool = False


@register('MODELS')
class FeatureKDLoss(DistillLoss):
    """Target-aware feature distillation, see `functional.feature_kd` and `query_quality`.

    A learned 1 x 1 convolution (phi of Eq. 9) brings the student's channels to the teacher's when
    they differ. Levels are paired by stride; one without a partner is left out. Where the maps of a
    stride differ by rounding, the larger one loses its last row or column.

    Args:
        loss_weight: factor.
        preset: 'paper' or 'released'.
        options: those of `FeatureKDOptions`.
    """

    presets: ClassVar[Mapping[str, FeatureKDOptions]] = {
        'paper': FeatureKDOptions(),
        'released': FeatureKDOptions(
            similarity='cosine',
            mask='summed',
            quality='max_iou',
            stages='all',
            source='neck',
            exclude_padding=False,
        ),
    }

    def __init__(
        self, loss_weight: float = 1.0, preset: Optional[str] = None, **options: Any
    ) -> None:
        super().__init__(loss_weight, preset, **options)
        self.phi: nn.Module = nn.Identity()

    def prepare(self, student: DetectorAdapter, teacher: DetectorAdapter) -> None:
        """Make phi, and log the strides of the feature levels.

        Raises:
            ValueError: no stride is shared.
        """
        strides = describe_strides(student.strides, teacher.strides)
        print_log(f'feature strides of student / teacher: {strides}', logger='current')
        if student.embed_dims != teacher.embed_dims:
            self.phi = nn.Conv2d(student.embed_dims, teacher.embed_dims, kernel_size=1)

    def assigned_stages(self, num_student: int, num_teacher: int) -> Sequence[int]:
        if self.options.quality != 'matched_iou' or self.options.mask == 'ground_truth':
            return ()
        return [num_teacher - 1] if self.options.stages == 'last' else range(num_teacher)

    def forward(self, pair: DistillPair) -> Dict[str, Tensor]:
        student, teacher = self.feature_maps(pair)
        with full_precision(teacher[0]):
            value = feature_kd(
                [self.phi(feat) for feat in student],
                teacher,
                self.masks(pair),
                self.valid_masks(pair),
                self.options.normalize,
                reduce_count,
            )
        return {'': scaled(value, self.loss_weight)}

    def feature_maps(self, pair: DistillPair) -> Tuple[List[Tensor], List[Tensor]]:
        """The distilled maps of student and teacher, per shared level (B, C, H, W)."""
        student, teacher = (
            state.memory_maps() if self.options.source == 'encoder' else state.features
            for state in (pair.student_forward.state, pair.teacher_forward.state)
        )
        return (
            [as_float(level.cut(student[level.student])) for level in pair.levels],
            [as_float(level.cut(teacher[level.teacher])) for level in pair.levels],
        )

    def valid_masks(self, pair: DistillPair) -> Optional[List[Tensor]]:
        """Per shared level (B, H, W) bool, True = counts; None: all pixels."""
        valid = pair.teacher_forward.state.valid_masks if self.options.exclude_padding else None
        return None if valid is None else [level.cut(valid[level.teacher]) for level in pair.levels]

    def masks(self, pair: DistillPair, stages: Optional[slice] = None) -> List[Tensor]:
        """Make the masks of this loss, per shared level (B, H, W).

        Args:
            stages: the teacher's decoder stages; None: those of the option.
        """
        options = self.options
        outputs = pair.teacher_forward.outputs
        _, gt_boxes, image_sizes = pair.ground_truth
        if options.mask == 'ground_truth':
            height, width = pair.samples[0].metainfo['batch_input_shape']
            shares = (image_sizes[:, 1] / width, image_sizes[:, 0] / height)
            scales = torch.stack(shares, -1).repeat(1, 2)  # (B, 4) of the padded image
            padded = [boxes * scale for boxes, scale in zip(gt_boxes, scales)]
            return object_masks(padded, [level.size for level in pair.levels])
        if stages is None:
            stages = slice(-1, None) if options.stages == 'last' else slice(None)
        matched = options.quality == 'matched_iou'
        probs = foreground_probs(outputs.logits[stages], pair.teacher.activation)
        if pair.teacher_classes is not None:
            probs = probs[..., pair.teacher_classes]
        assignment = pair.teacher_assignment[stages] if matched else None
        quality = query_quality(probs, outputs.boxes[stages], gt_boxes, assignment, options)
        if outputs.query_mask is not None:
            quality = quality * outputs.query_mask[stages]
        queries = as_float(outputs.hidden_states[stages])
        _, teacher = self.feature_maps(pair)
        with full_precision(queries):
            return target_masks(
                teacher, queries, quality.to(queries.dtype), self.valid_masks(pair), options
            )
