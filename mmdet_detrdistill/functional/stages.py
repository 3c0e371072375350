"""Which decoder stages of the teacher supervise which stage of the student, and their mean."""

from typing import Callable, List, Literal, NamedTuple, Sequence, Tuple, get_args

import torch
from torch import Tensor

Pairing = Literal['group', 'last', 'uniform']
GroupReduction = Literal['mean', 'sum']
#: Averages a tensor of counts over processes, and keeps each from being 0.
Reduce = Callable[[Tensor], Tensor]


def stage_groups(num_student: int, num_teacher: int, pairing: str = 'group') -> List[List[int]]:
    """Teacher stages for each student stage, counted from 0.

    Source: DETRDistill, Fig. 5: with a shorter student, teacher stages {1, 2} -> S1, {3, 4} -> S2,
    {5, 6} -> S3. A longer student repeats teacher stages.

    Args:
        num_student: decoder stages of the student.
        num_teacher: decoder stages of the teacher.
        pairing: 'group' every stage of a group supervises; 'uniform' the last of each group;
            'last' the teacher's last stage supervises every student stage.

    Returns:
        One non-empty list per student stage; the last student stage always sees the last
        teacher stage.

    Raises:
        ValueError: unknown pairing or a count below 1.
    """
    if min(num_student, num_teacher) < 1:
        raise ValueError(f'stage counts must be positive, got {num_student} and {num_teacher}')
    if pairing == 'last':
        return [[num_teacher - 1] for _ in range(num_student)]
    if pairing not in get_args(Pairing):
        raise ValueError(f'pairing must be one of {get_args(Pairing)}, got {pairing!r}')
    groups = []
    for stage in range(num_student):
        first = stage * num_teacher // num_student
        end = max(first + 1, (stage + 1) * num_teacher // num_student)
        groups.append(list(range(first, end)))
    return [group[-1:] for group in groups] if pairing == 'uniform' else groups


class StagePairs(NamedTuple):
    """Pairs (student stage, teacher stage) that are compared, and the factor of each."""

    student: List[int]
    teacher: List[int]
    factors: Tuple[float, ...]


def stage_pairs(
    num_student: int, num_teacher: int, pairing: str = 'group', group_reduction: str = 'mean'
) -> StagePairs:
    """`stage_groups` as a flat list of pairs.

    Args:
        num_student: decoder stages of the student; likewise `num_teacher`.
        pairing: see `stage_groups`.
        group_reduction: 'mean' gives each pair 1 / (size of its group), 'sum' gives it 1.

    Raises:
        ValueError: unknown option or a count below 1.
    """
    valid = get_args(GroupReduction)
    if group_reduction not in valid:
        raise ValueError(f'group_reduction must be one of {valid}, got {group_reduction!r}')
    groups = stage_groups(num_student, num_teacher, pairing)
    student = [stage for stage, group in enumerate(groups) for _ in group]
    teacher = [other for group in groups for other in group]
    share = [1 / len(groups[stage]) if group_reduction == 'mean' else 1.0 for stage in student]
    return StagePairs(student, teacher, tuple(share))


def pick_stages(tensor: Tensor, stages: Sequence[int]) -> Tensor:
    """Select stages of (L, ...) in that order -> (P, ...); a list as index synchronises."""
    if list(stages) == list(range(tensor.shape[0])):
        return tensor
    return torch.stack([tensor[stage] for stage in stages])


def at_least_one(counts: Tensor) -> Tensor:
    """Normalisers of a single process: the counts, and 1 where nothing or less is counted."""
    return counts.clamp(min=1)


def means_over(
    values: Tensor, masks: Tensor, normalisers: Tensor, factors: Tuple[float, ...]
) -> Tensor:
    """Sum over P pairs of stages of factor * (sum of masked values / normaliser).

    Args:
        values: (T, P, B, N), T terms.
        masks: (T, P, B, N) bool, True = counts.
        normalisers: (T, P).
        factors: P numbers.

    Returns:
        (T,).
    """
    means = values.masked_fill(~masks, 0).sum((2, 3)) / normalisers
    if len(set(factors)) == 1:
        return scaled(means.sum(1), factors[0])
    # a tensor of the factors would force a host-device synchronisation
    return torch.stack([f * mean for f, mean in zip(factors, means.unbind(1))]).sum(0)


def scaled(value: Tensor, factor: float) -> Tensor:
    """Multiply a value by a factor, without an operation where it is 1."""
    return value if factor == 1 else factor * value
