"""Models that stay as they are while rows of further dates come in: ``reference.refit_after``."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

from sie_spark.features.samples import part_rows
from sie_spark.models.store import SavedModel, current_model, set_current
from sie_spark.platform.context import Context
from sie_spark.platform.result import TableRef
from sie_spark.training.arms import fit_code
from sie_spark.training.tuning import carry_on, name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

MADE_FOR, LAST_DATE, SEARCH = "made_for", "last_date", "search"
OLDER_ROWS = "older_rows"  # the model stands for rows that it was not fitted on
SETTINGS = ("model", "training", "pilot", "reference.fit", "dataset.split")


def frozen(ctx: Context, names: Sequence[str], samples: TableRef, encoded: str) -> list[SavedModel] | None:
    """The current models of these names where they are to stay for these samples; None where they are to be fitted.

    They stay where their settings, their code and their encoder are the same, and the newest training date is not
    further from the one they have seen than ``reference.refit_after`` days, or no drift was found.
    """
    after = ctx.config.reference.refit_after
    found = [current_model(ctx.root, name) for name in names]
    models = [model for model in found if model is not None]
    if after is None or ctx.config.run.force or len(models) < len(names):
        return None
    if any(model.details.get(MADE_FOR) != _made_for(ctx, encoded) for model in models):
        return None
    if after == "drift":
        return None if ctx.load_details("score").get("drift", {}).get("found") else models
    newest, seen = newest_date(ctx, samples), models[0].details.get(LAST_DATE)
    if newest is None or seen is None:
        return None
    return models if (newest - date.fromisoformat(seen)).days <= float(after) else None


def keep(ctx: Context, models: Sequence[SavedModel], samples: TableRef, encoded: str) -> None:
    """Take over what a search chose for the rows that the models were fitted on."""
    carry_on(ctx, samples, encoded, models[0].details.get(SEARCH))


def mark(ctx: Context, model: SavedModel, samples: TableRef, encoded: str) -> None:
    """Write beside a model that was just fitted what :func:`frozen` asks of it."""
    newest = newest_date(ctx, samples)
    known: dict[str, Any] = {
        MADE_FOR: _made_for(ctx, encoded),
        LAST_DATE: newest.isoformat() if newest else None,
        SEARCH: name_of(ctx, samples, encoded),
    }
    set_current(ctx.root, replace(model, details={**model.details, **known}))


def newest_date(ctx: Context, samples: TableRef) -> date | None:
    """The newest date of a training row; dates are a partition column."""
    from pyspark.sql import functions as F

    row = part_rows(ctx, samples.version, ["train"]).agg(F.max("event_date")).first()
    return row[0] if row else None


def _made_for(ctx: Context, encoded: str) -> str:
    return ctx.fingerprint("frozen", *SETTINGS, code=fit_code(ctx), encoder=encoded)
