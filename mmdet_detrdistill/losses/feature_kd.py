"""Module of `functional.feature_kd`."""

from dataclasses import dataclass
from typing import Any, ClassVar, Dict, Literal, Mapping, Optional, Sequence

from mmengine.logging import print_log
from torch import Tensor, nn

from ..detectors import DetectorAdapter
from ..detectors.levels import describe_strides
from ..detectors.pair import DistillPair
from ..functional.classes import foreground_probs
from ..functional.feature_kd import MaskOptions, feature_kd, query_quality
from ..registry import register
from .base import DistillLoss, as_float, full_precision, reduce_count


@dataclass(frozen=True)
class FeatureKDOptions(MaskOptions):
    """Options of `FeatureKDLoss`, beside those of `MaskOptions`; the defaults are the paper's.

    Attributes:
        stages: decoder stages whose queries make masks, 'last' or 'all'.
        source: distilled maps, 'encoder' output or 'neck' output.
        exclude_padding: leave padded pixels out.
    """

    stages: Literal['last', 'all'] = 'last'
    source: Literal['encoder', 'neck'] = 'encoder'
    exclude_padding: bool = True


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
        if self.options.quality != 'matched_iou':
            return ()
        return [num_teacher - 1] if self.options.stages == 'last' else range(num_teacher)

    def forward(self, pair: DistillPair) -> Dict[str, Tensor]:
        student = pair.student_forward.state
        encoded = self.options.source == 'encoder'
        maps = student.memory_maps() if encoded else student.features
        inputs = self.mask_inputs(pair)
        with full_precision(inputs['teacher_queries']):
            feats = [self.phi(as_float(level.cut(maps[level.student]))) for level in pair.levels]
            value = feature_kd(feats, **inputs, reduce=reduce_count)
        return {'': self.loss_weight * value}

    def mask_inputs(self, pair: DistillPair, stages: Optional[slice] = None) -> Dict[str, Any]:
        """What `functional.target_masks` takes to make the masks of this loss.

        Args:
            stages: the teacher's decoder stages; None: those of the option.
        """
        options = self.options
        teacher = pair.teacher_forward.state
        maps = teacher.memory_maps() if options.source == 'encoder' else teacher.features
        valid = teacher.valid_masks() if options.exclude_padding else None
        if valid is not None:
            valid = [level.cut(valid[level.teacher]) for level in pair.levels]
        last = options.stages == 'last'
        picked = stages or (slice(-1, None) if last else slice(None))

        outputs = pair.teacher_forward.outputs
        _, gt_boxes, _ = pair.ground_truth
        matched = options.quality == 'matched_iou'
        probs = foreground_probs(outputs.logits[picked], pair.teacher.activation)
        if pair.teacher_classes is not None:
            probs = probs[..., pair.teacher_classes]
        weights = query_quality(
            probs,
            outputs.boxes[picked],
            gt_boxes,
            pair.teacher_assignment[picked] if matched else None,
            options,
        )
        if outputs.query_mask is not None:
            weights = weights * outputs.query_mask[picked]
        queries = as_float(outputs.hidden_states[picked])
        return dict(
            teacher_feats=[as_float(level.cut(maps[level.teacher])) for level in pair.levels],
            teacher_queries=queries,
            quality=weights.to(queries.dtype),
            valid_masks=valid,
            options=options,
        )
