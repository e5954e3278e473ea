"""What a logistic regression says of the row."""

from __future__ import annotations

import torch
from torch import Tensor

from sie_spark.importance.contracts import Fit, Given, Scorer, Seen
from sie_spark.importance.fits.linear import LinearModel
from sie_spark.importance.registry import register_scorer


@register_scorer
class LrScore(Scorer):
    """``theta . x`` with its intercept: log-odds of a click by a logistic regression on ids and standardised numbers.

    It is fitted on ``importance.sample_rows`` training rows at most, by weight.
    """

    name = "lr_score"
    version = 1
    citation = "Cox 1958, logistic regression"
    uses = ("weight",)
    reads = "importance.sample_rows training rows; no model"
    cost = ".07, and scikit-learn on the driver"
    options = ("sample_rows",)
    uses_label = False
    signed = True

    def models(self, given: Given) -> tuple[str, ...]:
        """None: features alone."""
        return ()

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """The regression."""
        return (LinearModel("logistic", given.settings.sample_rows),)

    def score(self, seen: Seen, given: Given) -> Tensor:
        """Log-odds, float64 [N]; higher where a click is likelier."""
        return torch.from_numpy(LinearModel("logistic", given.settings.sample_rows).values(seen, given))
