"""Weights that stress rows instead of standing for others: uniformly drawn, bounded, of mean 1, and biased."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from sie_spark.platform.config.base import Settings
from sie_spark.weighting.registry import WeightPolicy
from sie_spark.weighting.solve import rounded, solve_scale
from sie_spark.weighting.terms import NUMPY, Decision, Row, importance


class Options(Settings):
    """Settings of these policies."""

    cap: float = Field(10.0, gt=1, description="greatest weight, in means")


class Emphasis(WeightPolicy):
    """Rows drawn at one rate, with weight ``min(c raw, cap)``, c such that the mean is 1.

    ``raw`` depends on the score, and the score (``|y - p|`` unless the arm names one) on the label: the weighted fit
    converges to something else than the full data would give. A raw share averages 1/N and would stop the fit; the
    scale and the cap make it a weight.
    """

    assumption = "none holds: the fit's target is not that of all rows"
    reads = ("p",)
    takes = "any"
    biased = True
    use = "weight"
    options: ClassVar[type[Settings]] = Options
    corrects_by = "none"

    @abstractmethod
    def shape(self, score: np.ndarray, options: Any) -> dict[str, float]:
        """Constants of :meth:`raw` from the scores, float64 [N]."""

    @abstractmethod
    def raw(self, score: Any, constants: Mapping[str, float], ops: Any) -> Any:
        """What the weight is proportional to, at least 0."""

    def solve(self, pilot: Row, budget: float, options: Any) -> dict[str, float]:
        """Constants of the shape, the scale c, and the mean that is left where most scores are zero."""
        score = importance(pilot, NUMPY)
        constants = self.shape(score, options)
        raw = self.raw(score, constants, NUMPY)
        mean = rounded(float(np.mean(raw))) or 1.0
        scale = solve_scale(lambda c: float(np.mean(np.minimum(c * raw / mean, options.cap))), 1.0) / mean
        left = rounded(float(np.mean(np.minimum(scale * raw, options.cap)))) or 1.0
        return {**constants, "scale": scale, "cap": options.cap, "left": left, "pi": budget}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""
        raw = self.raw(importance(row, ops), constants, ops)
        return Decision(
            pi=ops.constant(row.label, constants["pi"]),
            offset=ops.constant(row.label, 0.0),
            weight=ops.minimum(raw * constants["scale"], constants["cap"]) / constants["left"],
        )
