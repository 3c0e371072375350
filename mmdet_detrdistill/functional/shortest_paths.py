"""Linear sum assignment by shortest augmenting paths, compiled by Numba; optional."""

import numpy as np
from numba import njit


# nnan, nsz: costs are checked to be finite, and without these the minima would not be vectorised.
@njit(nogil=True, cache=True, fastmath={'nnan', 'nsz'})
def assign_rows(cost: np.ndarray, duals: np.ndarray) -> np.ndarray:
    """Cheapest assignment of every row to a column of its own; exact.

    Source: the augmentation phase of Jonker and Volgenant (1987), dense. Every loop over the
    columns has no branch that the compiler could not turn into vector instructions.

    Args:
        cost: (n, m) with n <= m, finite.
        duals: (m,) float64, prices of the columns to start from, overwritten by the optimal ones.
            Must be zeros when n < m; any finite values do when n = m, and those of a similar
            problem leave little to do.

    Returns:
        (n,) int64, the column of each row.
    """
    num_rows, num_columns = cost.shape
    column_of = np.full(num_rows, -1, np.int64)
    row_of = np.full(num_columns, -1, np.int64)
    distance = np.empty(num_columns)
    closed = np.empty(num_columns)  # 0, or infinite once the column is in the tree
    parent = np.empty(num_columns, np.int64)
    tree = np.empty(num_columns, np.int64)
    length = np.empty(num_columns)
    for row in range(num_rows):  # whoever finds its cheapest column free takes it
        low = np.inf
        for j in range(num_columns):
            distance[j] = cost[row, j] - duals[j]
            low = min(low, distance[j])
        column = 0
        while distance[column] != low:
            column += 1
        if row_of[column] < 0:
            row_of[column], column_of[row] = row, column
    for start in range(num_rows):  # a shortest path to a free column for each of the others
        if column_of[start] >= 0:
            continue
        distance[:] = np.inf
        closed[:] = 0
        row, offset, size = start, 0.0, 0
        while True:
            low = np.inf
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
            closed[column] = np.inf
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
