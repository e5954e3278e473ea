"""Shapley values of training rows for nearest-neighbour classifiers, in closed form."""

from __future__ import annotations

import numpy as np
from scipy.special import digamma

ROOM = 1 << 18  # distances held at once: what a core keeps near it
LEVELS = (
    44  # bits of a squared distance, in units of the target's largest: far above rounding, far below a gap
)


def knn_shapley(
    train: np.ndarray,
    labels: np.ndarray,
    targets: np.ndarray,
    target_labels: np.ndarray,
    k: int,
    *,
    weights: np.ndarray | None = None,
    each: bool = False,
) -> np.ndarray:
    """Exact Shapley values for a k-NN classifier (Jia et al. 2019, theorem 1).

    The utility of a set of rows, for one target, is the number of matching labels among its k rows nearest to the
    target, over k. Rows as far away as each other are taken in their order.

    Parameters
    ----------
    train, labels:
        float [n, d] and any [n].
    targets, target_labels:
        float [v, d] and any [v].
    k:
        neighbours that vote.
    weights:
        of the targets, float [v]; None for equal ones.
    each:
        whether the value for every target is wanted.

    Returns
    -------
    ndarray
        float64 [n], the mean over targets; with ``each``, [v, n].
    """
    n, v = len(train), len(targets)
    if not n or not v:
        return np.zeros((v, n) if each else n)
    share = np.full(v, 1 / v) if weights is None else np.asarray(weights, np.float64) / np.sum(weights)
    train, targets = np.asarray(train, np.float64), np.asarray(targets, np.float64)
    centre = train.mean(0)  # less is lost where squares are subtracted
    train, targets = train - centre, targets - centre
    lengths, rank = np.einsum("nd,nd->n", train, train), np.arange(1, n + 1)
    steps = 1.0 / np.maximum(rank, k)
    bits = max(1, int(n - 1).bit_length())
    levels = min(LEVELS, 63 - bits)
    found, total = np.zeros((v, n) if each else (0, n)), np.zeros(n)
    size = max(1, ROOM // n)
    for start in range(0, v, size):
        part = slice(start, min(v, start + size))
        near = _nearest(train, lengths, targets[part], bits, levels)
        match = (labels[near] == target_labels[part, None]).astype(np.float64)
        # from the farthest row inwards: each differs from the next one by what a swap of the two would change
        values = match * steps
        values[:, :-1] -= match[:, 1:] * steps[:-1]
        np.cumsum(values[:, ::-1], axis=1, out=values[:, ::-1])
        if each:
            np.put_along_axis(found[part], near, values, axis=1)
        else:
            values *= share[part, None]
            total += np.bincount(near.ravel(), values.ravel(), minlength=n)
    return found if each else total


def _nearest(
    train: np.ndarray, lengths: np.ndarray, targets: np.ndarray, bits: int, levels: int
) -> np.ndarray:
    """Rows by distance to each target, int64 [v, n].

    A whole number whose upper bits are the squared distance, and whose lower bits are the row's place, is sorted
    as it is: that takes a fraction of the time of sorting places, and equal distances stay in order.
    """
    squared = targets @ train.T
    squared *= -2
    squared += lengths
    squared += np.einsum("vd,vd->v", targets, targets)[:, None]
    np.maximum(squared, 0, out=squared)
    squared *= (2.0**levels - 1) / np.maximum(squared.max(1, keepdims=True), np.finfo(np.float64).tiny)
    keys = np.rint(squared, out=squared).astype(np.int64)
    keys <<= bits
    keys |= np.arange(len(train))
    keys.sort(axis=1)
    keys &= (1 << bits) - 1
    return keys


def threshold_values(counted: np.ndarray, matching: np.ndarray) -> np.ndarray:
    """Shapley values of the neighbours of a target, for a classifier that lets all rows within a radius vote.

    The utility of a set, for one target, is the share of matching labels among its rows within the radius, and 1/2
    where it has none (Wang et al. 2023). For m neighbours, A of which match, and a row that matches (a = 1) or does
    not (a = 0), in a random order of arrival: with no neighbour before it (chance 1/m) the row adds a - 1/2; with
    s > 0 before it, (a - (A - a) / (m - 1)) / (s + 1) on average. The sum over s is
    ``(1/m) [(a - 1/2) + (a - (A - a) / (m - 1)) (H_m - 1)]``, H_m the m-th harmonic number. Rows further away have 0.

    Parameters
    ----------
    counted, matching:
        m and A of each target, int [v]. Where no row of a kind was counted, a row of that kind is judged as one more:
        it is not of those that were counted.

    Returns
    -------
    ndarray
        float64 [v, 2]: of a neighbour that does not match, and of one that does.
    """
    found = []
    for a, there in ((0.0, counted - matching), (1.0, matching)):
        more = (there == 0).astype(np.float64)
        m, right = counted + more, matching + a * more
        others = np.divide(right - a, m - 1, out=np.zeros_like(m), where=m > 1)
        harmonic = digamma(m + 1) + np.euler_gamma
        found.append(((a - 0.5) + (a - others) * (harmonic - 1)) / m)
    return np.stack(found, axis=1)
