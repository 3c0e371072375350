"""Which decoder stages of the teacher supervise which stage of the student."""

from typing import Dict, List

from torch import Tensor

PAIRINGS = ('group', 'last', 'uniform')


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


def add_terms(total: Dict[str, Tensor], terms: Dict[str, Tensor], scale: float = 1.0) -> None:
    """Add `scale` times each of `terms` to `total` in place, key by key."""
    for name, value in terms.items():
        total[name] = total[name] + scale * value if name in total else scale * value
