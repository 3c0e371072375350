"""Many linear sum assignment problems at once, on the CPU."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import List, Sequence, Tuple

import numpy as np
from scipy.optimize import linear_sum_assignment

try:  # an extra of the package: `pip install mmdet_detrdistill[fast]`
    from .shortest_paths import assign_rows
except ImportError:
    assign_rows = None  # type: ignore[assignment]

COMPILED = assign_rows is not None
Pairs = Tuple[np.ndarray, np.ndarray]
#: a problem gets zero rows to be square, and starts from the last one's prices, up to this share
PADDED_SHARE = 0.1


def solve_chains(chains: Sequence[Sequence[np.ndarray]]) -> List[List[Pairs]]:
    """Cheapest one-to-one assignments, in threads; by Numba where it is installed, else by SciPy.

    Args:
        chains: lists of finite cost matrices (n, m). Problems of one chain should be alike, such as
            the decoder stages of an image: each starts where the one before it ended. Chains are
            independent and run at the same time.

    Returns:
        Per problem the matched rows and columns, min(n, m) each. The optimum is exact; among
        equally cheap assignments any may be found.
    """
    solve = _solve_by_scipy if assign_rows is None else _solve_compiled
    if len(chains) == 1:
        return [solve(chains[0])]
    return list(_threads().map(solve, chains))


def _solve_by_scipy(chain: Sequence[np.ndarray]) -> List[Pairs]:
    return [linear_sum_assignment(cost) for cost in chain]


def _solve_compiled(chain: Sequence[np.ndarray]) -> List[Pairs]:
    found, duals = [], np.zeros(0)
    for cost in chain:
        wide = cost.shape[0] <= cost.shape[1]
        rows = np.ascontiguousarray(cost if wide else cost.T)
        num_rows, num_columns = rows.shape
        missing = num_columns - num_rows
        if 0 < missing <= PADDED_SHARE * num_columns:  # who gets a zero row stays unmatched
            rows = np.concatenate((rows, np.zeros((missing, num_columns), rows.dtype)))
        if duals.shape[0] != num_columns or rows.shape[0] != num_columns:
            duals = np.zeros(num_columns)
        columns = assign_rows(rows, duals)[:num_rows]
        pairs = np.arange(num_rows), columns
        found.append(pairs if wide else pairs[::-1])
    return found


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return ThreadPoolExecutor(max(1, cores), thread_name_prefix='assignment')
