import pytest

from mmdet_detrdistill.functional.stages import stage_groups


@pytest.mark.parametrize(
    'num_student, num_teacher, expected',
    [
        (6, 6, [[0], [1], [2], [3], [4], [5]]),
        (3, 6, [[0, 1], [2, 3], [4, 5]]),  # DETRDistill, Fig. 5
        (2, 6, [[0, 1, 2], [3, 4, 5]]),
        (1, 3, [[0, 1, 2]]),
        (6, 3, [[0], [0], [1], [1], [2], [2]]),
        (6, 2, [[0], [0], [0], [1], [1], [1]]),
        (6, 1, [[0]] * 6),
    ],
)
def test_value_by_hand(num_student, num_teacher, expected):
    assert stage_groups(num_student, num_teacher) == expected
    assert stage_groups(num_student, num_teacher, 'group') == expected


@pytest.mark.parametrize(
    'num_student, num_teacher, expected',
    [
        (3, 6, [[1], [3], [5]]),
        (6, 6, [[i] for i in range(6)]),
        (6, 3, [[0], [0], [1], [1], [2], [2]]),
    ],
)
def test_convention_uniform_is_the_last_of_each_group(num_student, num_teacher, expected):
    assert stage_groups(num_student, num_teacher, 'uniform') == expected


@pytest.mark.parametrize('num_student, num_teacher', [(3, 6), (6, 3), (4, 5)])
def test_convention_last(num_student, num_teacher):
    expected = [[num_teacher - 1]] * num_student
    assert stage_groups(num_student, num_teacher, 'last') == expected


@pytest.mark.parametrize('num_student', range(1, 8))
@pytest.mark.parametrize('num_teacher', range(1, 8))
def test_groups_are_in_order_and_complete(num_student, num_teacher):
    groups = stage_groups(num_student, num_teacher)
    flat = [stage for group in groups for stage in group]
    assert len(groups) == num_student
    assert all(groups)
    assert flat == sorted(flat)
    assert groups[-1][-1] == num_teacher - 1
    assert set(flat) == set(range(num_teacher)) or num_teacher > num_student
    if num_teacher >= num_student:
        assert flat == list(range(num_teacher))


@pytest.mark.parametrize('counts', [(0, 3), (3, 0)])
def test_no_stages_is_an_error(counts):
    with pytest.raises(ValueError):
        stage_groups(*counts)


def test_unknown_mode_lists_the_valid_ones():
    with pytest.raises(ValueError, match='uniform'):
        stage_groups(3, 6, 'first')
