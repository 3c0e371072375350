"""Many linear sum assignment problems at once, on a GPU."""

from typing import Optional, Sequence

import torch
from torch import Tensor

try:  # an extra of the package: `pip install mmdet_detrdistill[gpu]`
    from torch_linear_assignment import batch_linear_assignment
except ImportError:
    batch_linear_assignment = None


def solves(cost: Tensor) -> bool:
    """Tell whether costs are solved where they are: on a GPU, with torch-linear-assignment."""
    return batch_linear_assignment is not None and cost.is_cuda


@torch.no_grad()
def match_where_they_are(
    cost: Tensor, student_mask: Optional[Tensor], teacher_masks: Sequence[Optional[Tensor]]
) -> Tensor:
    """Solve without a transfer to the CPU; arguments, result and errors are `start_matching`'s."""
    matched = []
    for teacher_mask in teacher_masks:
        inside = torch.ones_like(cost, dtype=torch.bool)
        for mask, dim in ((student_mask, 3), (teacher_mask, 2)):
            inside = inside if mask is None else inside & mask.unsqueeze(dim)
        inner = cost.double().masked_fill(~inside, 0.0)
        # dearer than any pair inside: one more of those always costs less
        outside = inner.nan_to_num(0.0, 0.0, 0.0).amax() + 1
        rows = _solve(torch.where(inside, inner, outside))
        paired = inside.gather(2, rows.clamp(min=0).unsqueeze(2)).squeeze(2) & (rows >= 0)
        matched.append(rows.masked_fill(~paired, -1))
    return torch.stack(matched).amax(0)


def _solve(cost: Tensor) -> Tensor:
    """The row of each column of (L, B, N_s, N_t), -1 = none."""
    finite = torch.isfinite(cost)
    try:  # it takes an infinite cost for a pair that is forbidden
        problems = cost.masked_fill(~finite, torch.nan).flatten(0, 1).transpose(1, 2)
        found: Tensor = batch_linear_assignment(problems).view(*cost.shape[:2], -1)
    except ValueError as error:
        bad = (~finite).flatten(2).any(-1).nonzero()
        stage, image = bad[0].tolist()
        raise ValueError(
            f'matching cost is NaN or infinite at stage {stage}, image {image}'
        ) from error
    return found
