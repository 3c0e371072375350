"""Boxes that enter both decoders: any, or those of the ground truth with noise."""

from typing import Optional, Tuple

import numpy as np
from mmengine.logging import MessageHub
from torch import Tensor

from ...detectors import DetectorAdapter
from ...detectors.pair import DistillPair, Injected
from ...functional.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from ...functional.transfer import pad_rows, to_device
from ...registry import register
from .base import InjectionRule
from .box_queries import box_queries, refuse_boxes


class SharedBoxInjection(InjectionRule):
    """Give both decoders queries at the same boxes, for `AlignedKDLoss`.

    Only the boxes are shared. The content of a query is each side's own, see `box_queries`: content
    embeddings of two detectors mean different things, and a projection between them would be
    trained by this loss alone.

    The boxes are drawn anew in each iteration, from the seed and the runner's iteration: other
    random numbers stay as they are, a resumed run draws what an uninterrupted one draws, and all
    processes draw the same.

    Args:
        num_queries: N of each image.
        seed: of the draws.

    Raises:
        ValueError: `num_queries` is no positive number, or `seed` a negative one.
    """

    both_sides = True
    way_out = (
        'Leave the rule out, or use two detectors with anchors (DAB, two-stage Deformable, DINO, '
        'DDQ, RT-DETR, Sparse R-CNN).'
    )

    def __init__(self, num_queries: int, seed: int) -> None:
        super().__init__()
        if not isinstance(num_queries, int) or num_queries < 1:
            raise ValueError(f'num_queries must be a positive number, got {num_queries!r}')
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f'seed must be a whole number >= 0, got {seed!r}')
        self.num_queries = num_queries
        self.seed = seed

    def refusal(self, student: DetectorAdapter, teacher: DetectorAdapter) -> str:
        found = [(side.side, refuse_boxes(side)) for side in (student, teacher)]
        return ', '.join(f'{side}: {reason}' for side, reason in found if reason)

    def boxes(self, pair: DistillPair) -> Tuple[Tensor, Optional[Tensor]]:
        """Return (B, N, 4) cxcywh in [0, 1], and (B, N) bool, True = counts; None: all."""
        raise NotImplementedError

    def forward(self, pair: DistillPair) -> Injected:
        """Return the entries of both sides' decoder inputs to replace, each (B, N, .)."""
        boxes, mask = self.boxes(pair)
        student = box_queries(pair.student, pair.student_forward.state, boxes)
        with pair.teaching():
            teacher = box_queries(pair.teacher, pair.teacher_forward.state, boxes)
        return Injected(student, teacher, mask)

    def draw(self, like: Tensor) -> Tensor:
        """Draw (N, 4) numbers in [0, 1), with dtype and device of `like`."""
        iteration = MessageHub.get_current_instance().get_info('iter', 0)
        drawn = np.random.default_rng([self.seed, iteration]).random((self.num_queries, 4))
        return to_device(drawn, like.device).to(like.dtype)


@register('TASK_UTILS')
class RandomBoxInjection(SharedBoxInjection):
    """Let both decoders answer N random boxes, the same for all images.

    Source: the general distillation points of KD-DETR (arXiv 2211.08071): drawn anew in each
    iteration, each weighted with the teacher's highest class score for it. Centre and size are
    uniform in [0, 1] and the box is cut at the image; which distribution the paper takes is not
    known to us.
    """

    by_confidence = True
    prefix = 'random_'

    def __init__(self, num_queries: int = 300, seed: int = 0) -> None:
        super().__init__(num_queries, seed)

    def boxes(self, pair: DistillPair) -> Tuple[Tensor, Optional[Tensor]]:
        like = pair.teacher_forward.outputs.boxes
        return self.draw(like).expand(like.shape[1], -1, -1), None


@register('TASK_UTILS')
class GroundTruthBoxInjection(SharedBoxInjection):
    """Let both decoders answer the ground truth's boxes with noise.

    Source: the target-aware queries of CLoCKDistill (arXiv 2502.10683), with the noise of DINO's
    positive denoising queries (arXiv 2203.03605): each side of a box moves by up to
    `box_noise_scale / 2` of its width or height. An image's objects take turns until there are N
    queries; an image without objects has none that counts. Labels stay out, so that no side is told
    the class.

    Args:
        num_queries: N of each image.
        seed: of the draws.
        box_noise_scale: as DINO's, >= 0.

    Raises:
        ValueError: a number outside its range.
    """

    prefix = 'object_'

    def __init__(self, num_queries: int = 100, seed: int = 1, box_noise_scale: float = 1.0) -> None:
        super().__init__(num_queries, seed)
        if box_noise_scale < 0:
            raise ValueError(f'box_noise_scale must be >= 0, got {box_noise_scale}')
        self.box_noise_scale = box_noise_scale

    def boxes(self, pair: DistillPair) -> Tuple[Tensor, Optional[Tensor]]:
        _, objects, _ = pair.ground_truth
        counts = np.array([[len(found)] for found in objects])
        turns = np.arange(self.num_queries) % counts.clip(min=1)
        table = np.stack(np.broadcast_arrays(turns, counts))
        index, count = to_device(table, objects[0].device)
        boxes = pad_rows(objects).gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
        moved = (2 * self.draw(boxes) - 1) * boxes[..., 2:].repeat(1, 1, 2)
        corners = cxcywh_to_xyxy(boxes) + moved * self.box_noise_scale / 2
        return xyxy_to_cxcywh(corners), count > 0
