"""How much a Hungarian assignment changes from one epoch to the next."""

import torch
from torch import Tensor


def queries_of_objects(assignment: Tensor, num_objects: int) -> Tensor:
    """The query of each object, from the object of each query.

    Args:
        assignment: (L, N) int64, the object of each query in one image; below 0 = none.
        num_objects: M.

    Returns:
        (L, M) int64 in [-1, N); -1 = no query has the object.
    """
    num_stages, num_queries = assignment.shape
    found = assignment.new_full((num_stages, num_objects + 1), -1)  # the last takes what has none
    target_boxes = assignment.masked_fill(assignment < 0, num_objects)
    indices = torch.arange(num_queries, device=assignment.device).expand(num_stages, -1)
    return found.scatter(1, target_boxes, indices)[:, :-1]


def instability(before: Tensor, after: Tensor) -> Tensor:
    """Share of the objects whose query changed.

    Source: DETRDistill, Fig. 7, which measures the instability of DN-DETR (Li et al., CVPR 2022,
    section 3.2) between two epochs.
    Deviation: a share of the objects, not their number per image, and apart for every stage.

    Args:
        before: (L, M) the query of each object in one epoch, see `queries_of_objects`.
        after: (L, M) likewise in the next.

    Returns:
        (L,) in [0, 1]; 0 when nothing changed, and without objects.

    Raises:
        ValueError: other shapes: the objects are not the same.
    """
    if before.shape != after.shape:
        raise ValueError(
            f'assignments of {tuple(before.shape)} and {tuple(after.shape)} (stages, objects) '
            'cannot be compared'
        )
    if before.shape[1] == 0:
        return before.new_zeros(before.shape[0], dtype=torch.float32)
    return (before != after).float().mean(1)
