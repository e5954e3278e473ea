"""Models that the reference fit kept on its way: what scores along a fit's path are summed over."""

from __future__ import annotations

from sie_spark.importance.contracts import Given
from sie_spark.models.store import REFERENCE
from sie_spark.platform.errors import ConfigError


def checkpoints(given: Given, scorer: str) -> tuple[str, ...]:
    """Names of the reference's checkpoints, without the final model.

    Raises
    ------
    ConfigError
        where none was kept.
    """
    kept = tuple(name for name in given.models if name.startswith(f"{REFERENCE}@"))
    if not kept:
        raise ConfigError(
            f"importance.scorers: '{scorer}' sums over models that the reference fit kept on its way, and it kept none",
            remedy="set training.keep_epochs to the epochs to keep, for example [1], and run 'sie train' again",
        )
    return kept
