"""What the engine refuses, by name: a gradient quantity that is silently wrong is worse than none."""

from __future__ import annotations

from sie_spark.platform.errors import ModelError

__all__ = ["GradientError", "MergeError", "UnsupportedLayer", "UnsupportedLoss", "UnsupportedParameter"]


class GradientError(ModelError):
    """A per-sample gradient quantity cannot be computed exactly for this model, batch or loss."""


class UnsupportedParameter(GradientError):
    """A trainable parameter is covered by no rule, or is used where its rule cannot see it."""


class UnsupportedLayer(GradientError):
    """A layer has a rule, but not in this mode or for this input (batch statistics, max_norm, in-place)."""


class UnsupportedLoss(GradientError):
    """The loss is not one value a sample (or a sample and task), so samples cannot be told apart."""


class MergeError(GradientError):
    """Two partial results of different models or bases cannot be added."""
