"""Linear sum assignment by shortest augmenting paths, compiled by Numba; optional."""

import numpy as np
from numba import njit


# nnan, nsz: costs are checked to be finite, and without these the minima would not be vectorised.
@njit(nogil=True, cache=True, fastmath={'nnan', 'nsz'})
def assign_rows(cost: np.ndarray, duals: np.ndarray) -> np.ndarray:
    """Cheapest assignment of every row to a column of its own.

    Source: Jonker and Volgenant (1987), dense: one round of augmenting row reduction, then the
    augmentation. Every loop over the columns has no branch that the compiler could not turn into
    vector instructions, and in float32 a row and its distances fit the processor's first cache.

    Args:
        cost: (n, m) with n <= m, below 1e30, float32 or float64. All arithmetic is in its dtype:
            the assignment is optimal up to the rounding of sums of costs.
        duals: (m,) of the same dtype, prices of the columns to start from, overwritten by the
            optimal ones. Must be zeros when n < m; any finite values do when n = m, and those of
            a similar problem leave little to do.

    Returns:
        (n,) int64, the column of each row.
    """
    num_rows, num_columns = cost.shape
    zero, infinite = cost.dtype.type(0), cost.dtype.type(np.inf)
    column_of = np.full(num_rows, -1, np.int64)
    row_of = np.full(num_columns, -1, np.int64)
    distance = np.empty(num_columns, cost.dtype)
    closed = np.empty(num_columns, cost.dtype)  # 0, or infinite once the column is in the tree
    parent = np.empty(num_columns, np.int32)
    tree = np.empty(num_columns, np.int64)
    length = np.empty(num_columns, cost.dtype)
    for row in range(num_rows):  # takes its cheapest column, and bids as much as it gains by it
        low = second = infinite
        for j in range(num_columns):
            distance[j] = cost[row, j] - duals[j]
            low = min(low, distance[j])
        column = 0
        while distance[column] != low:
            column += 1
        distance[column] = infinite
        for j in range(num_columns):
            second = min(second, distance[j])
        owner = row_of[column]
        if owner < 0 or second > low:
            if num_columns > 1:
                duals[column] -= second - low
            row_of[column], column_of[row] = row, column
            if owner >= 0:
                column_of[owner] = -1
    for start in range(num_rows):  # a shortest path to a free column for each of the others
        if column_of[start] >= 0:
            continue
        distance[:] = infinite
        closed[:] = zero
        row, offset, size = start, zero, 0
        while True:
            low = infinite
            for j in range(num_columns):
                through = cost[row, j] - duals[j] - offset + closed[j]
                if through < distance[j]:
                    distance[j], parent[j] = through, row
            for j in range(num_columns):
                low = min(low, distance[j] + closed[j])
            column = 0
            while distance[column] + closed[column] != low:
                column += 1
            if row_of[column] < 0:
                break
            closed[column] = infinite
            tree[size], length[size] = column, low
            size += 1
            row = row_of[column]
            offset = cost[row, column] - duals[column] - low
        for k in range(size):
            duals[tree[k]] += length[k] - low
        while True:
            row = parent[column]
            row_of[column] = row
            column, column_of[row] = column_of[row], column
            if row == start:
                break
    return column_of
