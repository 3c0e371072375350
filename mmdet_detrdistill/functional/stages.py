"""Which decoder stages of the teacher supervise which stage of the student."""

from typing import Dict, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

PAIRINGS = ('group', 'last', 'uniform')
REDUCTIONS = ('mean', 'sum')


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
    if pairing not in PAIRINGS:
        raise ValueError(f'pairing must be one of {PAIRINGS}, got {pairing!r}')
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
    if group_reduction not in REDUCTIONS:
        raise ValueError(f'group_reduction must be one of {REDUCTIONS}, got {group_reduction!r}')
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


def add_terms(total: Dict[str, Tensor], terms: Dict[str, Tensor], scale: float = 1.0) -> None:
    """Add `scale` times each of `terms` to `total` in place, key by key."""
    for name, value in terms.items():
        total[name] = total[name] + scale * value if name in total else scale * value
