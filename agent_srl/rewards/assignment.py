"""The optimal assignment of rows to columns, for parallel calls and chained commands."""

from __future__ import annotations

from collections.abc import Sequence


def assign(worth: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Pairs (row, column) with the greatest sum of `worth`; min(rows, columns) of them, each row and column once.

    The Hungarian method with potentials, O(rows² · columns): Kuhn 1955, Munkres 1957.
    """
    if not worth or not worth[0]:
        return []
    if len(worth) > len(worth[0]):
        return sorted((row, column) for column, row in assign(list(zip(*worth, strict=True))))
    rows, columns = len(worth), len(worth[0])
    u, v = [0.0] * (rows + 1), [0.0] * (columns + 1)
    owner, way = [0] * (columns + 1), [0] * (columns + 1)
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        least, used = [float("inf")] * (columns + 1), [False] * (columns + 1)
        while owner[column]:
            used[column] = True
            current, step, following = owner[column], float("inf"), 0
            for j in range(1, columns + 1):
                if used[j]:
                    continue
                reduced = -worth[current - 1][j - 1] - u[current] - v[j]
                if reduced < least[j]:
                    least[j], way[j] = reduced, column
                if least[j] < step:
                    step, following = least[j], j
            for j in range(columns + 1):
                if used[j]:
                    u[owner[j]] += step
                    v[j] -= step
                else:
                    least[j] -= step
            column = following
        while column:
            owner[column] = owner[way[column]]
            column = way[column]
    return sorted((owner[j] - 1, j - 1) for j in range(1, columns + 1) if owner[j])


def matched_share(worth: Sequence[Sequence[float]], rows: Sequence[float], columns: Sequence[float]) -> float:
    """F1 of an assignment: twice the matched worth over the weights of both sides, in [0, 1] for worths in [0, 1].

    A pair counts with the mean of its two weights, so what is left without a partner on either side costs.
    """
    total = sum(rows) + sum(columns)
    if total == 0:
        return 1.0
    weighted = [[w * (a + b) for w, b in zip(line, columns, strict=True)] for line, a in zip(worth, rows, strict=True)]
    return min(1.0, sum(weighted[i][j] for i, j in assign(weighted)) / total)
