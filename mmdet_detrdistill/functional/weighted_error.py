"""Weighted squared error of two maps, a piece at a time: no temporary is as large as a map."""

from typing import Any, Iterator, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PIECE = 2**19  # numbers per temporary: 2 MiB of float32, near the size of a core's cache


def pieces(channels: int, num_pixels: int) -> Iterator[slice]:
    """Pixels in slices, so that channels x slice is at most `PIECE` numbers."""
    step = max(1, PIECE // channels)
    for start in range(0, num_pixels, step):
        yield slice(start, min(start + step, num_pixels))


def weighted_squared_error(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Sum over images and pixels of weight * || teacher - student ||^2.

    Args:
        student: (B, C, P); the only one that gets a gradient, and nothing else as large is made.
        teacher: (B, C, P).
        weights: (B, P).

    Returns:
        0-d.
    """
    total: Tensor = _WeightedSquaredError.apply(student, teacher, weights)  # type: ignore[no-untyped-call]
    return total


class _WeightedSquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(student, teacher, weights)
        total = weights.new_zeros(())
        for own, other, weight in zip(student, teacher, weights):
            for part in pieces(*own.shape):
                total += (own[:, part] - other[:, part]).square_().sum(0).dot(weight[part])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None, None]:
        student, teacher, weights = ctx.saved_tensors
        result = torch.empty_like(student)
        torch.sub(student, teacher, out=result)
        return result.mul_((2 * gradient * weights).unsqueeze(1)), None, None
