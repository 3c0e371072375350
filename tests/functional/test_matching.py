import itertools
import math
import threading

import pytest
import torch
from torch.testing import assert_close

from mmdet_detrdistill.functional import matching
from mmdet_detrdistill.functional.classes import soft_targets
from mmdet_detrdistill.functional.linear_assignment import solve_chains
from mmdet_detrdistill.functional.matching import match, matching_cost, start_matching
from tests.functional.cases import f64
from tests.reference import pair_cost


def total_cost(cost, rows):
    """Of one problem (N_s, N_t) under the row of each column, -1 for none."""
    return sum(float(cost[row, j]) for j, row in enumerate(rows.tolist()) if row >= 0)


def test_value_by_hand():
    # Diagonal 1 + 1 = 2 against the other way 5 + 6: teacher 0 <- student 0, 1 <- 1 ...
    assert match(f64([[[[1.0, 5.0], [6.0, 1.0]]]])).tolist() == [[[0, 1]]]
    # ... and greedy is wrong here: 1 + 9 = 10 against 2 + 3 = 5.
    assert match(f64([[[[1.0, 2.0], [3.0, 9.0]]]])).tolist() == [[[1, 0]]]


def test_cost_by_hand():
    # BCE of logit 0 is ln 2 whatever the target; L1 of the boxes 0.2 + 0.2 = 0.4;
    # inter 0.04, union 0.12, hull 0.16: GIoU = 1 / 3 - 1 / 4 = 1 / 12.
    cost = matching_cost(
        f64([[0.0]]), f64([[0.5, 0.5, 0.2, 0.4]]), f64([[0.3]]), f64([[0.5, 0.5, 0.4, 0.2]])
    )
    assert_close(cost, f64([[math.log(2) + 5 * 0.4 + 2 * 11 / 12]]))


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
@pytest.mark.parametrize('weights', [(1.0, 5.0, 2.0), (2.0, 0.0, 0.0), (0.0, 0.5, 0.0)])
def test_cost_equals_reference(draw, activation, weights):
    logits, boxes = draw.normal(2, 5, 3), draw.boxes(2, 5)
    targets = soft_targets(draw.normal(2, 7, 3), activation, activation)
    target_boxes = draw.boxes(2, 7)
    cost = matching_cost(
        logits, boxes, targets, target_boxes, activation=activation,
        cls_weight=weights[0], bbox_weight=weights[1], giou_weight=weights[2],
    )  # fmt: skip
    assert cost.shape == (2, 5, 7)
    for b, i, j in itertools.product(range(2), range(5), range(7)):
        pair = [x.tolist() for x in (logits[b, i], boxes[b, i], targets[b, j], target_boxes[b, j])]
        assert_close(cost[b, i, j], f64(pair_cost(*pair, activation, weights)))


def test_convention_rows_are_students_columns_teachers(draw):
    cost = matching_cost(draw.normal(5, 3), draw.boxes(5), draw.uniform(7, 3), draw.boxes(7))
    assert cost.shape == (5, 7)


def test_cost_is_detached(draw):
    inputs = [draw.normal(4, 3), draw.boxes(4), draw.uniform(6, 3), draw.boxes(6)]
    cost = matching_cost(*[x.requires_grad_() for x in inputs])
    assert not cost.requires_grad


@pytest.mark.parametrize('num_student, num_teacher', [(4, 4), (5, 3), (3, 5)])
def test_cheapest_of_all_assignments(draw, num_student, num_teacher):
    cost = draw.uniform(2, 3, num_student, num_teacher)
    result = match(cost)
    assert result.dtype == torch.int64
    assert result.shape == (2, 3, num_teacher)
    for s, b in itertools.product(range(2), range(3)):
        problem = cost[s, b] if num_student >= num_teacher else cost[s, b].T
        long, short = problem.shape
        best = min(
            sum(float(problem[row, j]) for j, row in enumerate(rows))
            for rows in itertools.permutations(range(long), short)
        )
        assert_close(f64(total_cost(cost[s, b], result[s, b])), f64(best))


def test_more_teachers_than_students(draw):
    result = match(draw.uniform(1, 4, 3, 7))
    for b in range(4):
        assert sorted(result[0, b].tolist()) == [-1] * 4 + [0, 1, 2]


def test_more_students_than_teachers(draw):
    result = match(draw.uniform(1, 4, 7, 3))
    for b in range(4):
        rows = result[0, b].tolist()
        assert len(set(rows)) == 3
        assert min(rows) >= 0


def test_convention_mask_true_is_kept(draw):
    cost = draw.uniform(1, 1, 4, 4)
    student_mask = torch.tensor([[[True, False, True, True]]])
    teacher_mask = torch.tensor([[[False, True, True, True]]])
    result = match(cost, student_mask, teacher_mask)[0, 0]
    assert result[0] == -1
    assert sorted(result[1:].tolist()) == [0, 2, 3]
    # The rest is the problem without the masked row and column.
    alone = match(cost[:, :, [0, 2, 3]][..., 1:])[0, 0]
    assert result[1:].tolist() == [[0, 2, 3][row] for row in alone.tolist()]


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_everything_masked_gives_no_pairs(draw, side):
    cost = draw.uniform(2, 1, 3, 4)
    nobody = torch.zeros(2, 1, 3 if side == 'student' else 4, dtype=torch.bool)
    result = match(cost, nobody, None) if side == 'student' else match(cost, None, nobody)
    assert result.tolist() == [[[-1] * 4]] * 2


def test_masks_differ_per_stage_and_image(draw):
    cost = draw.uniform(2, 2, 5, 5)
    mask = draw.uniform(2, 2, 5) < 0.5
    result = match(cost, None, mask)
    assert_close(result >= 0, mask)
    for s, b in itertools.product(range(2), range(2)):
        alone = match(cost[s, b][:, mask[s, b]][None, None])[0, 0]
        assert_close(result[s, b][mask[s, b]], alone)


def test_batch_equals_single(draw):
    cost = draw.uniform(3, 2, 6, 5)
    result = match(cost)
    for s, b in itertools.product(range(3), range(2)):
        assert_close(result[s, b], match(cost[s : s + 1, b : b + 1])[0, 0])


def test_no_objects(draw):
    assert match(draw.uniform(2, 3, 4, 0)).shape == (2, 3, 0)
    assert match(draw.uniform(2, 3, 0, 4)).tolist() == [[[-1] * 4] * 3] * 2


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf, 1e31])
def test_non_finite_cost_names_stage_and_image(draw, value):
    cost = draw.uniform(3, 4, 5, 5)
    cost[1, 2, 0, 0] = value
    with pytest.raises(ValueError, match=r'stage 1\b.*image 2\b|image 2\b.*stage 1\b'):
        match(cost)


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
def test_numeric_stability(activation):
    extreme = torch.tensor([[100.0, -100.0], [-100.0, 100.0], [100.0, 100.0]])
    targets = soft_targets(extreme, activation, activation)
    boxes = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.1, 0.1, 0.2, 0.2], [0.9, 0.9, 1e-6, 0.3]])
    cost = matching_cost(extreme, boxes, targets, boxes, activation=activation)
    assert cost.isfinite().all()
    assert match(cost[None, None])[0, 0].tolist() == [0, 1, 2]


def test_half_precision_is_computed_in_float32(draw):
    inputs = [draw.normal(4, 3), draw.boxes(4), draw.uniform(6, 3), draw.boxes(6)]
    cost = matching_cost(*[x.half() for x in inputs])
    assert cost.dtype == torch.float32
    expected = matching_cost(*[x.half().float() for x in inputs])
    assert_close(cost, expected)


def test_the_solver_works_while_the_caller_queues_work(draw, monkeypatch):
    """It begins before the caller has queued its work, and ends without being asked."""
    queued, solved = threading.Event(), threading.Event()

    def solve(chains):
        assert queued.wait(10), 'the caller waits for the solver'
        found = solve_chains(chains)
        solved.set()
        return found

    monkeypatch.setattr(matching, 'solve_chains', solve)
    matches_of = start_matching(draw.uniform(2, 3, 5, 5), None, [None])
    queued.set()
    assert solved.wait(10)
    matches_of()
