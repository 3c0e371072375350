"""The compiled solver finds SciPy's optimum, whatever it starts from."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from mmdet_detrdistill.functional import linear_assignment
from mmdet_detrdistill.functional.linear_assignment import solve_chains
from mmdet_detrdistill.functional.shortest_paths import assign_rows


def total(cost, pairs):
    return cost[pairs].sum(dtype=np.float64)


def chain(shape, seed, length=3):
    """Costs that drift from one to the next, as those of decoder stages do."""
    rng = np.random.default_rng(seed)
    first = rng.random(shape, dtype=np.float32)
    return [first + 0.3 * k * rng.random(shape, dtype=np.float32) for k in range(length)]


@pytest.mark.parametrize(
    'shape', [(1, 1), (12, 12), (60, 60), (4, 40), (40, 4), (57, 60), (60, 57), (0, 5), (5, 0)]
)
def test_equals_scipy(shape):
    chains = [chain(shape, seed) for seed in range(4)]
    for costs, found in zip(chains, solve_chains(chains)):
        for cost, (rows, columns) in zip(costs, found):
            assert len(rows) == len(set(rows)) == len(set(columns)) == min(shape)
            expected = total(cost, linear_sum_assignment(cost))
            np.testing.assert_allclose(total(cost, (rows, columns)), expected, rtol=1e-6)


@pytest.mark.parametrize('cores', [1, 2, 3, 64])
def test_chains_are_cut_where_threads_would_idle(monkeypatch, cores):
    """The negatives of two images, the few positives beside them: the order is kept."""
    chains = [chain((3, 30), 0), chain((30, 30), 1), chain((3, 30), 2), chain((30, 30), 3)]
    counts = linear_assignment._num_pieces(chains, cores)
    large = min(3, max(1, cores // 2))
    assert counts == [1, large, 1, large]
    monkeypatch.setattr(linear_assignment, '_cores', lambda: cores)
    for costs, found in zip(chains, solve_chains(chains)):
        assert len(found) == len(costs)
        for cost, pairs in zip(costs, found):
            expected = total(cost, linear_sum_assignment(cost))
            np.testing.assert_allclose(total(cost, pairs), expected, rtol=1e-6)


def test_processes_of_a_machine_share_its_cores(monkeypatch):
    linear_assignment._cores.cache_clear()
    alone = linear_assignment._cores()
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(alone))
    linear_assignment._cores.cache_clear()
    assert linear_assignment._cores() == 1
    linear_assignment._cores.cache_clear()


def test_shapes_may_change_within_a_chain():
    """Positives differ from stage to stage: prices of other columns are not taken over."""
    shapes = [(20, 20), (20, 19), (18, 20), (20, 20), (3, 20), (20, 20), (10, 20), (14, 20)]
    costs = [chain(shape, seed, 1)[0] for seed, shape in enumerate(shapes)]
    for cost, found in zip(costs, solve_chains([costs])[0]):
        expected = total(cost, linear_sum_assignment(cost))
        np.testing.assert_allclose(total(cost, found), expected, rtol=1e-6)


def test_ties():
    cost = np.zeros((6, 6), dtype=np.float32)
    cost[:, :3] = 1
    rows, columns = solve_chains([[cost]])[0][0]
    assert sorted(columns) == list(range(6))
    assert total(cost, (rows, columns)) == 3


@pytest.mark.parametrize(('dtype', 'atol'), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_optimal_prices(dtype, atol):
    """They make every row's own column its cheapest; started from them, the same is found again."""
    cost = chain((30, 30), 0, 1)[0].astype(dtype)
    prices = np.zeros(30, dtype)
    first = assign_rows(cost, prices)
    for _ in range(2):
        reduced = cost - prices
        np.testing.assert_allclose(reduced[np.arange(30), first], reduced.min(1), atol=atol)
        np.testing.assert_array_equal(assign_rows(cost, prices), first)


def test_without_numba(monkeypatch):
    chains = [chain((9, 9), seed) for seed in range(2)]
    fast = solve_chains(chains)
    monkeypatch.setattr(linear_assignment, 'assign_rows', None)
    for costs, one, other in zip(chains, fast, solve_chains(chains)):
        for cost, own, scipy in zip(costs, one, other):
            np.testing.assert_allclose(total(cost, own), total(cost, scipy), rtol=1e-6)


def test_the_package_imports_without_numba():
    code = (
        "import sys; sys.modules['numba'] = None; "
        'from mmdet_detrdistill.functional import linear_assignment as found; print(found.COMPILED)'
    )
    ran = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True)
    assert ran.stdout.split()[-1] == b'False', ran.stderr
