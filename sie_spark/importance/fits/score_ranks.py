"""The distributions of scores over a sample of training rows: what ranks are read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sie_spark.importance.contracts import Fit, Given, State
from sie_spark.importance.fits.row_sample import SCORE, RowSample

POINTS = 2001  # quantiles that are kept of a larger sample


@dataclass(frozen=True)
class ScoreRanks(Fit):
    """Score -> its values over the sample in ascending order, float64; quantiles where there are many."""

    sample: RowSample

    name: ClassVar[str] = "score_ranks"
    rows: ClassVar[None] = None

    def after(self) -> tuple[Fit, ...]:
        """The sample."""
        return (self.sample,)

    def finish(self, state: State, given: Given) -> State:
        """Ordered values."""
        found = {}
        for name in self.sample.scores:
            values = np.sort(given.states[self.sample.key][SCORE + name])
            if len(values) > POINTS:
                values = values[np.linspace(0, len(values) - 1, POINTS).round().astype(int)]
            found[name] = values
        return found
