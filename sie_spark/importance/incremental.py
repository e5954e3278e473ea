"""Scores that stay while dates come in: which rows they lack, and whether the new ones still look alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sie_spark.features.samples import part_rows
from sie_spark.importance.contracts import ModelRef
from sie_spark.importance.drift import Drift, find_drift
from sie_spark.importance.fits.row_sample import PURPOSE, SEED
from sie_spark.importance.frames import score_rows
from sie_spark.importance.worker import PROBABILITY, Pass, ScoreRows
from sie_spark.models.store import PILOT, REFERENCE
from sie_spark.platform.catalog import dates_predicate
from sie_spark.platform.config.load import digest
from sie_spark.platform.context import Context
from sie_spark.platform.draws import at_most
from sie_spark.platform.errors import workers
from sie_spark.platform.result import TableRef


@dataclass(frozen=True)
class Standing:
    """What the scores that there are rest on: ``base`` names rows and encoder; ``dates`` were written since."""

    base: str
    dates: tuple[tuple[str, str], ...] = ()

    @property
    def where(self) -> str | None:
        """A predicate over ``event_date``; None where all rows are to be scored."""
        return " OR ".join(f"({dates_predicate(*span)})" for span in self.dates) or None

    @property
    def scope(self) -> str:
        """The dates as a commit names them."""
        return ", ".join("..".join(span) for span in self.dates)


def base_of(samples: TableRef, rows_of: str) -> str:
    """What scores of all these rows rest on."""
    return digest([samples.content, rows_of])


def standing_of(ctx: Context, samples: TableRef, known: Mapping[str, ModelRef], rows_of: str) -> Standing:
    """Whether scores that were made of earlier samples stay, and which dates they lack."""
    earlier, fresh = ctx.load_details("score"), Standing(base_of(samples, rows_of))
    models = {name: model.digest for name, model in known.items()}
    if ctx.config.run.force or earlier.get("rows_of") != rows_of or earlier.get("models") != models:
        return fresh
    if earlier["samples"] == samples.content:
        return Standing(earlier["base"])
    if ctx.config.reference.refit_after is None:
        return fresh
    dates = ctx.catalog.dates_since("samples", earlier["samples"])
    return Standing(earlier["base"], tuple(dates)) if dates else fresh


def drift_of(ctx: Context, samples: TableRef, shared: Pass, where: str) -> Drift:
    """New dates against the others: their scores, and how well the reference (or the pilot) ranks their rows."""
    from pyspark.sql import functions as F

    name = next(model.name for model in reversed(shared.known) if model.name in (PILOT, REFERENCE))
    rows = part_rows(ctx, samples.version, ctx.config.training.parts)
    rows = rows.withColumn("new", F.expr(where)).where("new OR split = 'validation'")
    rows, _ = at_most(rows, ctx.config.importance.fit_rows, seed=SEED, purpose=PURPOSE)
    model = tuple(model for model in shared.known if model.name == name)
    judged = score_rows(rows, ScoreRows(replace(shared, models=model), (), name))
    scores = ctx.catalog.read("scores", version=ctx.catalog.version("scores"))
    columns = [column for column in scores.columns if column == PROBABILITY or column.startswith("score_")]
    with workers(
        "looking for drift",
        remedy="mend what the message names, and run 'sie score' again",
        otherwise="look at the executors' logs for the task that failed",
    ):
        return find_drift(scores, where, columns, judged)
