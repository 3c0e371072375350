"""Matching where the costs are: the optimum of the CPU's, with every mask, and the same errors.

The package that solves on a GPU calls SciPy on a CPU; where it is missing, so do we.
"""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from mmdet_detrdistill.functional import gpu_assignment
from mmdet_detrdistill.functional.gpu_assignment import match_where_they_are
from mmdet_detrdistill.functional.matching import start_matching
from tests.functional.cases import f64


def by_scipy(cost):
    """What torch-linear-assignment does: (P, workers, tasks), the task of each worker or -1."""
    found = torch.full(cost.shape[:2], -1)
    for rows, problem in zip(found, cost):
        workers, tasks = map(torch.as_tensor, linear_sum_assignment(problem.numpy()))
        rows[workers] = tasks
    return found


@pytest.fixture(autouse=True)
def solver(monkeypatch):
    if gpu_assignment.batch_linear_assignment is None:
        monkeypatch.setattr(gpu_assignment, 'batch_linear_assignment', by_scipy)


def test_value_by_hand():
    cost = f64([[[[1.0, 2.0], [3.0, 9.0]]]])  # 1 + 9 against 2 + 3
    assert match_where_they_are(cost, None, [None]).tolist() == [[[1, 0]]]
    only_first = torch.tensor([[[True, False]]])  # the one teacher query takes the cheaper student
    assert match_where_they_are(cost, None, [only_first]).tolist() == [[[0, -1]]]
    assert match_where_they_are(cost, only_first, [None]).tolist() == [[[0, -1]]]


@pytest.mark.parametrize('sizes', [(7, 7), (5, 8), (8, 5)])
@pytest.mark.parametrize('kind', ['none', 'students', 'teachers', 'both'])
def test_the_optimum_is_that_of_the_cpu(draw, sizes, kind):
    """Costs without ties, so that the assignment is the same; both signs, two sets of teachers."""
    cost = 10 * draw.normal(3, 4, *sizes)
    students = draw.uniform(3, 4, sizes[0]) > 0.4 if kind in ('students', 'both') else None
    positive = draw.uniform(3, 4, sizes[1]) > 0.5
    sets = [positive, ~positive] if kind in ('teachers', 'both') else [None]
    expected = start_matching(cost, students, sets)()
    assert torch.equal(match_where_they_are(cost, students, sets), expected)
    assert (expected >= 0).any()


def test_as_many_pairs_as_there_can_be():
    """Of equal costs; on the diagonal one query of each side does not take part."""
    students, teachers = torch.tensor([[[False, True, True]], [[True, True, False]]])[:, None]
    found = match_where_they_are(torch.ones(1, 1, 3, 3), students, [teachers])
    assert sorted(found[0, 0].tolist()) == [-1, 1, 2]


def test_costs_outside_of_the_masks_are_not_looked_at():
    cost = torch.tensor([[[[1.0, 2.0], [torch.nan, torch.inf]]]])
    first = torch.tensor([[[True, False]]])
    assert match_where_they_are(cost, first, [None]).tolist() == [[[0, -1]]]


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_a_cost_that_is_not_finite_is_named(value):
    """Infinite ones too, which the package takes for forbidden pairs."""
    cost = torch.rand(2, 3, 4, 4)
    cost[1, 2, 0, 0] = value
    with pytest.raises(ValueError, match='NaN or infinite at stage 1, image 2'):
        match_where_they_are(cost, None, [torch.ones(2, 3, 4, dtype=torch.bool)])


def test_only_costs_on_a_gpu_are_solved_there():
    assert not gpu_assignment.solves(torch.rand(1, 1, 2, 2))
