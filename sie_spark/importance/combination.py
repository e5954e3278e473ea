"""Scores made of the ranks of other scores, in the same pass."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sie_spark.gradients import Quantity
from sie_spark.importance.contracts import Fit, Given, Scorer, Seen, Use
from sie_spark.importance.fits.row_sample import RowSample
from sie_spark.importance.fits.score_ranks import ScoreRanks
from sie_spark.importance.registry import SCORERS
from sie_spark.platform.errors import ConfigError


class Combination(Scorer):
    """A function of the ranks of its components, each rank in [0, 1] among a sample of training rows.

    It counts as made of the label, whatever its components are.
    """

    uses: ClassVar[tuple[Use, ...]] = ("subsample", "audit")
    cost: ClassVar[str] = "as its scores together"
    uses_label: ClassVar[bool] = True

    @abstractmethod
    def names(self, given: Given) -> tuple[str, ...]:
        """Of its components."""

    def parts(self, given: Given) -> list[Scorer]:
        """Its components.

        Raises
        ------
        ConfigError
            where there are none, or one is a combination itself.
        """
        found = [SCORERS[name] for name in self.names(given)]
        wrong = [scorer.name for scorer in found if isinstance(scorer, Combination)]
        setting = f"importance.{self.options[0]}"
        if wrong or not found:
            said = f"names '{wrong[0]}', which is a combination itself" if wrong else "names no score"
            free = ", ".join(sorted(name for name in SCORERS if not isinstance(SCORERS[name], Combination)))
            raise ConfigError(
                f"{setting} {said}, and '{self.name}' is made of it", remedy=f"choose among {free}"
            )
        return found

    def sample(self, given: Given, *more: Scorer) -> RowSample:
        """Training rows with the values of the components."""
        scorers = [*self.parts(given), *more]
        names = tuple(dict.fromkeys(scorer.name for scorer in scorers))
        models = tuple(dict.fromkeys(name for scorer in scorers for name in scorer.models(given)))
        before = {fit.key: fit for scorer in scorers for fit in scorer.fits(given)}
        rows = given.settings.sample_rows
        return RowSample(
            "train", rows, scores=names, of_scores=models, before=tuple(before.values()), inputs=False
        )

    def models(self, given: Given) -> tuple[str, ...]:
        """Those of its components."""
        return tuple(dict.fromkeys(name for scorer in self.parts(given) for name in scorer.models(given)))

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """Those of its components, and the ranks."""
        return (
            *(fit for scorer in self.parts(given) for fit in scorer.fits(given)),
            ScoreRanks(self.sample(given)),
        )

    def quantities(self, given: Given) -> dict[str, tuple[Quantity, ...]]:
        """Those of its components."""
        found: dict[str, tuple[Quantity, ...]] = {}
        for scorer in self.parts(given):
            for model, asked in scorer.quantities(given).items():
                found[model] = (*found.get(model, ()), *asked)
        return found

    def goes_backward(self, given: Given) -> bool:
        """Whether a component does."""
        return any(scorer.goes_backward(given) for scorer in self.parts(given))

    def ranks(self, seen: Seen, given: Given) -> Tensor:
        """Of the components, float64 [N, components]; ties share the mean of their ranks."""
        state = given.states[ScoreRanks(self.sample(given)).key]
        columns = [
            rank(state[scorer.name], seen.score(scorer, given).double().numpy())
            for scorer in self.parts(given)
        ]
        return torch.from_numpy(np.stack(columns, axis=1))


def rank(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The share of ``ordered`` (ascending, float64 [n]) below each value, half of what equals it included."""
    below, upto = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    found: np.ndarray = (below + upto) / (2 * len(ordered))
    return found
