"""What the policies that keep every positive share: whether that leaves room for negatives, and how much."""

from __future__ import annotations

import numpy as np

from sie_spark.weighting.terms import Row

LARGEST_SHARE = 0.5  # of the budget that positives may take


def crowded_out(pilot: Row, budget: float, policy: str, instead: str) -> str:
    """A sentence where the positives leave less than half of the budget to the negatives; else an empty text.

    A fit on few negatives, each with a large offset, is worse than a constant; at 44 % of the budget it was not.

    Parameters
    ----------
    policy, instead:
        what is called for, and what is used in its place.
    """
    positives = float(np.mean(pilot.label > 0))
    if positives < LARGEST_SHARE * budget or budget >= 1:
        return ""
    return (
        f"positives are {positives:.1%} of the rows, more than half of the budget of {budget:.1%}, and {policy}"
        f" keeps all of them: {instead} is used instead"
    )


def negatives_kept(pilot: Row, budget: float) -> float:
    """The share of the negatives that the budget has room for beside all positives; 1 where there are none."""
    share = float(np.mean(~(pilot.label > 0)))
    return (budget - (1 - share)) / share if share else 1.0
