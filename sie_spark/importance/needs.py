"""What scorers cannot do without, looked for in the configuration before work starts."""

from __future__ import annotations

from sie_spark.importance.contracts import Given, ModelRef
from sie_spark.importance.plan import make_plan
from sie_spark.importance.registry import SCORERS
from sie_spark.models.store import PILOT, REFERENCE
from sie_spark.platform.config import Config
from sie_spark.platform.errors import ConfigError


def check_needs(config: Config) -> None:
    """Plan the passes of a whole run with the models that it will fit.

    Raises
    ------
    ConfigError
        for an unknown scorer, and one that reads a model that is not fitted, an epoch that is not kept, or a
        validation part that there will not be.
    """
    names = [PILOT]
    if config.fits_reference:
        names += [REFERENCE, *(f"{REFERENCE}@{epoch}" for epoch in config.training.keep_epochs)]
    given = Given({name: ModelRef(name, "", "") for name in names}, settings=config.importance)
    for name in config.scorers:
        plan = make_plan([SCORERS[name]], given)
        plan.models(given)
        judged = any(fit.rows == "validation" for level in plan.levels for fit in level)
        if judged and not config.dataset.split.validation_fraction:
            raise ConfigError(
                f"importance.scorers: '{name}' reads validation rows, and dataset.split.validation_fraction is 0",
                remedy="set dataset.split.validation_fraction, for example to 0.1",
            )
