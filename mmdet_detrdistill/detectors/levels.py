"""Feature levels: their strides, and which level of the student learns from which level."""

from contextlib import contextmanager
from typing import Iterator, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor, nn

PROBE_SIZE = (128, 896)  # (H, W) in pixels; usual strides, 14 to 112 too, divide W: no rounding

Sizes = Sequence[Tuple[int, int]]


class SharedLevel(NamedTuple):
    """A feature level of each side, of one stride, in one batch.

    Attributes:
        student: index of the student's level; likewise `teacher`.
        size: (H, W) that both maps have, counted from the top left.
    """

    student: int
    teacher: int
    size: Tuple[int, int]

    def cut(self, values: Tensor) -> Tensor:
        """Reduce a side's map (..., H', W') of this level to the common size (..., H, W)."""
        return values[..., : self.size[0], : self.size[1]]


def num_channels(detector: nn.Module) -> int:
    """Return the image channels of a detector, those of its first convolution, or 3."""
    layers = detector.get_submodule('backbone').modules()
    return next((layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d)), 3)


def pair_strides(student: Sequence[int], teacher: Sequence[int]) -> List[Tuple[int, int]]:
    """Pair levels of equal stride, as (student level, teacher level); each has one partner at most.

    Args:
        student: strides of the student's levels, in pixels; likewise `teacher`.

    Raises:
        ValueError: no stride is shared.
    """
    free = list(range(len(teacher)))
    pairs = []
    for level, stride in enumerate(student):
        partner = next((other for other in free if teacher[other] == stride), None)
        if partner is not None:
            free.remove(partner)
            pairs.append((level, partner))
    if not pairs:
        raise ValueError(
            f'no feature level of equal stride: the student has strides {list(student)}, the '
            f'teacher {list(teacher)}. Set loss_feature_kd=None or change a neck.'
        )
    return pairs


def describe_strides(student: Sequence[int], teacher: Sequence[int]) -> str:
    """Say which strides each side has, which are paired, and which have no partner.

    Raises:
        ValueError: see `pair_strides`.
    """
    pairs = pair_strides(student, teacher)
    text = f'{list(student)} / {list(teacher)}, distilled: {[student[own] for own, _ in pairs]}'
    for side, strides, paired in zip(('student', 'teacher'), (student, teacher), zip(*pairs)):
        alone = [stride for level, stride in enumerate(strides) if level not in paired]
        text += f', only the {side} has {alone}' if alone else ''
    return text


def shared_levels(
    pairs: Sequence[Tuple[int, int]], student_sizes: Sizes, teacher_sizes: Sizes
) -> List[SharedLevel]:
    """Fit paired levels to the maps of a batch.

    A backbone that cuts an image into patches rounds a map's size down, one that pads rounds it up.
    In both, pixel i of a map begins at i * stride in the image. So the larger map loses its last
    row or column; resampling would shift all others.

    Args:
        pairs: from `pair_strides`.
        student_sizes: (H, W) of each level; likewise `teacher_sizes`.

    Raises:
        ValueError: sizes of one stride differ by more than rounding.
    """
    levels = []
    for student, teacher in pairs:
        sizes = student_sizes[student], teacher_sizes[teacher]
        (height, width), (teacher_height, teacher_width) = sizes
        if max(abs(height - teacher_height), abs(width - teacher_width)) > 1:
            raise ValueError(
                f"the student's feature level {student} has a map of {sizes[0]}, the teacher's "
                f'level {teacher} of equal stride one of {sizes[1]} (H, W): one of them does not '
                'grow with the image. Set loss_feature_kd=None.'
            )
        size = min(height, teacher_height), min(width, teacher_width)
        levels.append(SharedLevel(student, teacher, size))
    return levels


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode and make no graph; afterwards each part has its mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
