"""Seeded random stage outputs, the input of every loss."""

from types import SimpleNamespace
from typing import Optional, Sequence

import torch
from torch import Tensor

from mmdet_detrdistill.functional import aligned_kd as aligned
from mmdet_detrdistill.functional import feature_kd as feature
from mmdet_detrdistill.functional import logits_kd as logits
from mmdet_detrdistill.functional.assign_kd import SetCriterion
from mmdet_detrdistill.functional.logits_kd import Predictions


def f64(values) -> Tensor:
    """A tensor of numbers worked out by hand."""
    return torch.tensor(values, dtype=torch.float64)


def _sides(
    student_logits, student_boxes, teacher_logits, teacher_boxes,
    student_activation='sigmoid', teacher_activation='sigmoid', student_mask=None,
    teacher_mask=None, **rest,
):  # fmt: skip
    student = Predictions(student_logits, student_boxes, student_activation, student_mask)
    teacher = Predictions(teacher_logits, teacher_boxes, teacher_activation, teacher_mask)
    options = {name: value for name, value in rest.items() if name != 'reduce'}
    return student, teacher, options, {name: rest[name] for name in rest if name == 'reduce'}


def logits_kd(
    student_logits, student_boxes, teacher_logits, teacher_boxes, teacher_positive_mask, **rest
):
    """`functional.logits_kd` with tensors and options by name, as `logits_kd_reference` has it."""
    *sides, options, reduce = _sides(
        student_logits, student_boxes, teacher_logits, teacher_boxes, **rest
    )
    gt_boxes = options.pop('gt_boxes', None)
    options = logits.LogitsKDOptions(**options)
    return logits.logits_kd(*sides, teacher_positive_mask, options, **reduce, gt_boxes=gt_boxes)


def aligned_kd(
    student_logits, student_boxes, teacher_logits, teacher_boxes, teacher_positive_mask, **rest
):
    """`functional.aligned_kd`, likewise."""
    *sides, options, reduce = _sides(
        student_logits, student_boxes, teacher_logits, teacher_boxes, **rest
    )
    weighted = {name: options.pop(name) for name in ('by_confidence',) if name in options}
    options = aligned.AlignedKDOptions(**options)
    return aligned.aligned_kd(*sides, teacher_positive_mask, options, **reduce, **weighted)


def feature_kd(
    student_feats, teacher_feats, teacher_queries, quality, valid_masks=None, normalize=False,
    reduce=None, **options,
):  # fmt: skip
    """`functional.target_masks` and `functional.feature_kd`, likewise."""
    options = feature.MaskOptions(**options)
    masks = feature.target_masks(teacher_feats, teacher_queries, quality, valid_masks, options)
    given = {} if reduce is None else {'reduce': reduce}
    return feature.feature_kd(student_feats, teacher_feats, masks, valid_masks, normalize, **given)


def query_quality(probs, boxes, gt_boxes, assignment=None, **options):
    """`functional.query_quality`, likewise."""
    return feature.query_quality(probs, boxes, gt_boxes, assignment, feature.MaskOptions(**options))


class Draw:
    """Random tensors from one seed; float64 unless told."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        values = torch.rand(*shape, generator=self.generator, dtype=self.dtype)
        return low + (high - low) * values

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=self.generator, dtype=self.dtype)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator)

    def permutation(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.generator)

    def boxes(self, *shape: int) -> Tensor:
        """(*shape, 4) cxcywh; centres inside the image, some of the borders outside."""
        centres = self.uniform(*shape, 2, low=0.1, high=0.9)
        return torch.cat([centres, self.uniform(*shape, 2, low=0.05, high=0.6)], dim=-1)

    def assignment(self, stages: int, queries: int, objects: Sequence[int]) -> Tensor:
        """(stages, images, queries): every object is given to one query, as far as they last."""
        result = torch.full((stages, len(objects), queries), -1)
        for s in range(stages):
            for b, count in enumerate(objects):
                taken = min(count, queries)
                result[s, b, self.permutation(queries)[:taken]] = self.permutation(count)[:taken]
        return result

    def logits_case(
        self,
        *,
        student_stages: int = 3,
        teacher_stages: int = 3,
        student_queries: int = 6,
        teacher_queries: int = 8,
        num_classes: int = 3,
        positives: Sequence[int] = (3, 2, 0),
        student_activation: str = 'sigmoid',
        teacher_activation: str = 'sigmoid',
    ) -> SimpleNamespace:
        """Arguments of `logits_kd`; `positives` counts the positive queries of each image."""
        images = len(positives)
        student_channels = num_classes + (student_activation == 'softmax')
        teacher_channels = num_classes + (teacher_activation == 'softmax')
        student = (student_stages, images, student_queries)
        teacher = (teacher_stages, images, teacher_queries)
        return SimpleNamespace(
            student_logits=self.normal(*student, student_channels, scale=2.0).requires_grad_(),
            student_boxes=self.boxes(*student).requires_grad_(),
            teacher_logits=self.normal(*teacher, teacher_channels, scale=2.0),
            teacher_boxes=self.boxes(*teacher),
            teacher_positive_mask=self.assignment(teacher_stages, teacher_queries, positives) >= 0,
        )

    def feature_case(
        self,
        *,
        stages: int = 2,
        queries: int = 7,
        channels: int = 4,
        sizes: Sequence[Sequence[int]] = ((5, 6), (3, 3)),
        images: int = 3,
        padded: Optional[Sequence[float]] = (0.0, 0.3, 0.6),
    ) -> SimpleNamespace:
        """Arguments of `feature_kd`; of image b, the share `padded[b]` on the right is padding."""
        valid_masks = None
        if padded is not None:
            valid_masks = []
            for height, width in sizes:
                mask = torch.ones(images, height, width, dtype=torch.bool)
                for b, share in enumerate(padded):
                    mask[b, :, width - int(share * width) :] = False
                valid_masks.append(mask)
        shapes = [(images, channels, *size) for size in sizes]
        return SimpleNamespace(
            student_feats=[self.normal(*shape).requires_grad_() for shape in shapes],
            teacher_feats=[self.normal(*shape) for shape in shapes],
            teacher_queries=self.normal(stages, images, queries, channels),
            quality=self.uniform(stages, images, queries),
            valid_masks=valid_masks,
        )

    def assign_case(
        self,
        *,
        student_stages: int = 3,
        teacher_stages: int = 3,
        queries: int = 8,
        num_classes: int = 3,
        objects: Sequence[int] = (3, 2, 0),
        activation: str = 'sigmoid',
    ) -> SimpleNamespace:
        """Arguments of `assign_kd`; `objects` counts the objects of each image."""
        shape = (student_stages, len(objects), queries)
        channels = num_classes + (activation == 'softmax')
        return SimpleNamespace(
            student_logits=self.normal(*shape, channels, scale=2.0).requires_grad_(),
            student_boxes=self.boxes(*shape).requires_grad_(),
            assignment=self.assignment(teacher_stages, queries, objects),
            gt_labels=[self.integers(num_classes, count) for count in objects],
            gt_boxes=[self.boxes(count) for count in objects],
        )


class Recorder:
    """A criterion of `assign_kd` that notes what it is called with; a query costs 1."""

    def __init__(self, background_weight=0.0):
        self.cls, self.bbox, self.iou = [], [], []
        self.criterion = SetCriterion(
            self.record(self.cls), self.record(self.bbox), self.record(self.iou), background_weight
        )

    @staticmethod
    def record(calls):
        def term(predictions, *arguments):
            calls.append(
                (predictions, *(found() if callable(found) else found for found in arguments))
            )
            return predictions.sum(-1) * 0 + 1

        return term
