"""How much each of several scores says about what a row does to the validation loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.linear_model import Ridge

from sie_spark.importance.combination import rank
from sie_spark.importance.contracts import Fit, Given, State
from sie_spark.importance.fits.row_sample import SCORE, RowSample

TARGET = "gradient_dot"
PENALTY = 1e-3  # of the ridge, a row


@dataclass(frozen=True)
class MixWeights(Fit):
    """``weights``, float64 [k], and ``level``: ridge regression of ``gradient_dot`` on centred ranks.

    Parameters
    ----------
    sample:
        training rows with all scores.
    scores:
        the k that are mixed.
    """

    sample: RowSample
    scores: tuple[str, ...]

    name: ClassVar[str] = "mix_weights"
    rows: ClassVar[None] = None

    def after(self) -> tuple[Fit, ...]:
        """The sample."""
        return (self.sample,)

    def finish(self, state: State, given: Given) -> State:
        """The regression."""
        sample = given.states[self.sample.key]
        columns = [rank(np.sort(sample[SCORE + name]), sample[SCORE + name]) - 0.5 for name in self.scores]
        target, weight = sample[SCORE + TARGET], sample["weight"].astype(float)
        found = Ridge(alpha=PENALTY * len(target)).fit(
            np.stack(columns, axis=1), target, sample_weight=weight
        )
        return {"weights": found.coef_.astype(float), "level": np.array(float(found.intercept_))}
