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
        chains: lists of cost matrices (n, m), finite and below 1e30. Problems of one chain should
            be alike, such as the decoder stages of an image: each starts where the one before it
            ended. Chains are independent and run at the same time.

    Returns:
        Per problem the matched rows and columns, min(n, m) each. The optimum is exact up to the
        rounding of sums of costs; among equally cheap assignments any may be found.
    """
    solve = _solve_by_scipy if assign_rows is None else _solve_compiled
    pieces = [_pieces(chain, count) for chain, count in zip(chains, _num_pieces(chains, _cores()))]
    everything = [piece for chain in pieces for piece in chain]
    if len(everything) == 1:
        return [solve(everything[0])]
    solved = _threads().map(solve, everything)
    return [[pairs for _ in chain for pairs in next(solved)] for chain in pieces]


def _num_pieces(chains: Sequence[Sequence[np.ndarray]], num_threads: int) -> List[int]:
    """Into how many pieces each chain is cut: a cold start costs less than an idle thread.

    The small chains beside large ones, such as the positives beside the negatives, do not count.
    """
    work = [sum(cost.size for cost in chain) for chain in chains]
    large = [2 * size > max(work, default=0) for size in work]
    share = max(1, num_threads // max(1, sum(large)))
    return [min(share, len(chain)) if big else 1 for big, chain in zip(large, chains)]


def _pieces(chain: Sequence[np.ndarray], count: int) -> List[Sequence[np.ndarray]]:
    ends = [len(chain) * number // count for number in range(count + 1)]
    return [chain[start:end] for start, end in zip(ends, ends[1:])]


def _solve_by_scipy(chain: Sequence[np.ndarray]) -> List[Pairs]:
    return [linear_sum_assignment(cost) for cost in chain]


def _solve_compiled(chain: Sequence[np.ndarray]) -> List[Pairs]:
    dtype = np.result_type(np.float32, *chain)
    found, duals = [], np.zeros(0, dtype)
    for cost in chain:
        wide = cost.shape[0] <= cost.shape[1]
        rows = np.ascontiguousarray(cost if wide else cost.T, dtype)
        num_rows, num_columns = rows.shape
        missing = num_columns - num_rows
        if 0 < missing <= PADDED_SHARE * num_columns:  # who gets a zero row stays unmatched
            rows = np.concatenate((rows, np.zeros((missing, num_columns), dtype)))
        if duals.shape[0] != num_columns or rows.shape[0] != num_columns:
            duals = np.zeros(num_columns, dtype)
        columns = assign_rows(rows, duals)[:num_rows]
        pairs = np.arange(num_rows), columns
        found.append(pairs if wide else pairs[::-1])
    return found


@lru_cache(maxsize=1)
def _cores() -> int:
    """Cores for this process; those of a machine are shared by its training processes."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return max(1, cores // int(os.environ.get('LOCAL_WORLD_SIZE', 1)))  # set by torchrun


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix='assignment')
