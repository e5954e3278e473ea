"""Bins of the logit, laid by its quantiles: what is collected has a fixed size, whatever the logits are.

A ranking metric needs the order of the logits only. Bins of about equal weight keep it: however far a logit
lies from the others, it takes one place among them. A value that many rows share has a bin of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FINE = 65_536  # bins of an arm at most
COARSE = 1024  # bins of a replicate's AUC
CURVE = 20  # bins of calibration

Floats = NDArray[np.float64]
Edges = NDArray[np.float64]


def lay(logits: NDArray[np.float64], weights: NDArray[np.float64], *, most: int = FINE) -> Edges:
    """Inner edges of at most ``most`` bins of about equal weight, ascending; bin b is (edges[b-1], edges[b]].

    A value that holds a whole bin's weight is alone in its bin. With at most ``most / 2`` distinct logits every
    one of them is.

    Parameters
    ----------
    logits, weights:
        float64 [N], N >= 1; weights are positive.

    Examples
    --------
    >>> bins_of(np.array([0.0, 0.5, 1e9]), lay(np.array([0.0, 0.5, 1e9]), np.ones(3)))
    array([1, 3, 5])
    """
    values, place = np.unique(logits, return_inverse=True)
    half = most // 2
    if len(values) <= half:
        cuts = alone = values
    else:
        mass = np.cumsum(np.bincount(place, weights))
        levels = mass[-1] * np.arange(1, half) / half
        cuts, times = np.unique(values[np.searchsorted(mass, levels)], return_counts=True)
        alone = cuts[times > 1]
    return np.unique(np.concatenate([np.nextafter(alone, -np.inf), cuts]))


def bins_of(logits: NDArray[np.float64], edges: Edges) -> NDArray[np.int64]:
    """Bin of each logit, int64 [N], in [0, len(edges)]."""
    return np.searchsorted(edges, logits, side="left")


def equal_mass_bins(counts: Floats, bins: int) -> NDArray[np.int64]:
    """Groups of neighbouring fine bins with about the same count each: fine bin -> group, [B].

    Example: counts [1, 1, 1, 1] into 2 bins is [0, 0, 1, 1].
    """
    middle = np.cumsum(counts) - 0.5 * counts
    share = middle / max(float(counts.sum()), 1e-300)
    return np.minimum((share * bins).astype(np.int64), bins - 1)


def regroup(values: Floats, groups: NDArray[np.int64], bins: int) -> Floats:
    """Sums of the last axis by group: [..., B] -> [..., bins]."""
    flat = values.reshape(-1, values.shape[-1])
    summed = [np.bincount(groups, weights=row, minlength=bins).astype(np.float64) for row in flat]
    regrouped: Floats = np.stack(summed).reshape(*values.shape[:-1], bins)
    return regrouped


@dataclass(frozen=True)
class Binning:
    """An arm's fine bins, and how they make up those of a replicate and of the curve."""

    edges: Edges  # [B - 1]
    coarse: NDArray[np.int64]  # [B], in [0, COARSE)
    curve: NDArray[np.int64]  # [B], in [0, CURVE)

    @classmethod
    def over(cls, edges: Edges, mass: NDArray[np.float64]) -> Binning:
        """Coarse bins and those of the curve, each of about equal mass (float64 [B], by fine bin).

        The curve is cut from the coarse bins, so that a coarse bin lies in one of its bins.
        """
        coarse = equal_mass_bins(mass, COARSE)
        by_coarse = equal_mass_bins(regroup(mass, coarse, COARSE), CURVE)
        return cls(edges, coarse, by_coarse[coarse])
