"""Which settings the fits of a data set take: those of the configuration, or what a search chose from them."""

from __future__ import annotations

import hashlib
import io
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sie_spark.features.samples import part_rows
from sie_spark.models.registry import model_code
from sie_spark.platform.config import Model, Training
from sie_spark.platform.config.base import validate
from sie_spark.platform.context import Context
from sie_spark.platform.draws import at_most, uniform
from sie_spark.platform.errors import StageOrderError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.result import TableRef
from sie_spark.training.search import Sample, in_tasks, search

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

FOLDER, PURPOSE = "tuning", "tune"
# settings of fits that no candidate of the search reads: changing one asks for no other search
UNREAD = {
    "cost_cap",
    "correct_intercept",
    "refit",
    "keep_epochs",
    "processes",
    "distributed",
    "backend",
    "shuffle_rows",
    "validation_rows",
}
CODE = (
    "sie_spark.platform.draws",
    *(
        f"sie_spark.training.{name}"
        for name in ("intercept", "loop", "memory", "optimisers", "search", "tuning")
    ),
)


@dataclass(frozen=True)
class FitSettings:
    """What every fit of a data set takes, and how it was found.

    Parameters
    ----------
    found:
        plain data for the report: rows of the sample, outcomes, seconds; empty where nothing was searched.
    """

    model: Model
    training: Training
    found: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The settings alone, for fingerprints."""
        return {
            "model": self.model.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
        }


def fit_settings(ctx: Context, samples: TableRef, encoded: str) -> FitSettings:
    """The settings that :func:`tune` chose, or those of the configuration where it chooses nothing.

    Raises
    ------
    StageOrderError
        where stage train has not searched on these samples yet.
    """
    if not _searches(ctx, samples):
        return FitSettings(ctx.config.model, ctx.config.training, {})
    kept = ctx.root.read_json(FOLDER, f"{_fingerprint(ctx, samples, encoded)}.json")
    if kept is None:
        raise StageOrderError(
            "the search for training settings has not run on these samples",
            remedy="run 'sie train' with the same --root and --config first, or 'sie run' for all stages",
        )
    return _chosen(ctx, kept)


def carry_on(ctx: Context, samples: TableRef, encoded: str, earlier: str | None) -> None:
    """Take what a search on earlier samples chose for these as well; ``earlier`` as :func:`name_of` gave it."""
    kept = ctx.root.read_json(FOLDER, f"{earlier}.json") if earlier else None
    if kept is not None and _searches(ctx, samples):
        place = f"{_fingerprint(ctx, samples, encoded)}.json"
        ctx.root.write_bytes(json.dumps(kept, sort_keys=True).encode(), FOLDER, place)


def name_of(ctx: Context, samples: TableRef, encoded: str) -> str | None:
    """Of the search that chose the settings of these samples; None where nothing is searched."""
    return _fingerprint(ctx, samples, encoded) if _searches(ctx, samples) else None


def tune(ctx: Context, samples: TableRef, encoded: tuple[str, InputSpec]) -> FitSettings:
    """Search once for a data set, see :func:`search`; a search of the same samples and settings is not repeated."""
    name, spec = encoded
    fingerprint = _fingerprint(ctx, samples, name)
    kept = ctx.root.read_json(FOLDER, f"{fingerprint}.json")
    if not _searches(ctx, samples) or (kept is not None and ctx.up_to_date(fingerprint)):
        return fit_settings(ctx, samples, name)
    began = time.monotonic()
    for left in ctx.root.files(FOLDER):  # by a search that was killed
        if left.endswith(".arrow"):
            ctx.root.remove(FOLDER, left)
    sample, judged_on, positives, share = _sample(ctx, samples, spec, fingerprint)
    ctx.progress.say(
        f"train: search for settings on {sample.rows:,} training rows, judged on {judged_on:,} validation rows"
    )
    best, outcomes = search(in_tasks(ctx.spark), sample, ctx.config.model, ctx.config.training)
    kept = {
        "model": best.model,
        "training": scaled(best.training, share),
        "words": best.words,
        "rows": sample.rows,
        "validation_rows": judged_on,
        "validation_positives": positives,
        "outcomes": [outcome.as_dict() for outcome in outcomes],
        "seconds": time.monotonic() - began,
    }
    ctx.root.write_bytes(json.dumps(kept, sort_keys=True).encode(), FOLDER, f"{fingerprint}.json")
    ctx.root.remove(FOLDER, f"{fingerprint}.arrow")
    ctx.progress.say(f"train: chose {best.words} ({len(outcomes)} fits, {kept['seconds']:.0f} s)")
    return _chosen(ctx, kept)


def scaled(chosen: dict[str, Any], share: float) -> dict[str, Any]:
    """Settings that were chosen on a share of the training rows, for all of them.

    Weight decay acts once an update: over more rows the same one shrinks the weights more. A decay of 4 that suited
    60,000 rows made a fit on a million much worse. The penalty of embeddings is stated for all rows anyway.
    """
    decay = chosen.get("weight_decay")
    return chosen if decay is None else {**chosen, "weight_decay": decay * share}


def _chosen(ctx: Context, kept: dict[str, Any]) -> FitSettings:
    model = {**ctx.config.model.model_dump(mode="json"), **kept["model"]}
    training = {**ctx.config.training.model_dump(mode="json"), **kept["training"]}
    return FitSettings(
        validate(Model, model, where="the search"), validate(Training, training, where="the search"), kept
    )


def _searches(ctx: Context, samples: TableRef) -> bool:
    """Whether there is something to choose and something to judge by."""
    return ctx.config.training.tune == "auto" and _has_validation(ctx, samples)


def _has_validation(ctx: Context, samples: TableRef) -> bool:
    return not part_rows(ctx, samples.version, ["validation"]).isEmpty()


def _fingerprint(ctx: Context, samples: TableRef, encoded: str) -> str:
    code = model_code(ctx.config.model, *CODE)
    training = ctx.config.training.model_dump(mode="json", exclude=UNREAD)
    return ctx.fingerprint(
        "tune", "model", code=code, training=training, samples=samples.content, encoder=encoded
    )


def _sample(ctx: Context, samples: TableRef, spec: InputSpec, name: str) -> tuple[Sample, int, int, float]:
    """Rows of both parts, written for the workers.

    Beside them how many validation rows they are, positives among these, and the share of the training rows.
    """
    most = ctx.config.training.tune_rows
    drawn = [
        _drawn(ctx, part_rows(ctx, samples.version, [part]), limit, spec)
        for part, limit in (("train", most), ("validation", most // 2))
    ]
    tables = [_marked(table, held) for (table, _), held in zip(drawn, (False, True), strict=True)]
    sink = io.BytesIO()
    table = pa.concat_tables(tables)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    uri = ctx.root.write_bytes(data, FOLDER, f"{name}.arrow")
    sample = Sample(uri, hashlib.sha256(data).hexdigest(), spec.as_dict(), tables[0].num_rows)
    positives = int((tables[1].column("label").to_numpy() > 0).sum())
    return sample, tables[1].num_rows, positives, drawn[0][1]


def _marked(table: pa.Table, validation: bool) -> pa.Table:
    return table.append_column("validation", pa.array([validation] * table.num_rows, pa.bool_()))


def _drawn(ctx: Context, frame: DataFrame, limit: int, spec: InputSpec) -> tuple[pa.Table, float]:
    """About ``limit`` rows at most, in the order of a hash of their ids, each weighing 1 / sampling_rate; their share."""
    from pyspark.sql import functions as F

    seed = ctx.config.training.seed
    weight = (1 / F.col("sampling_rate").cast("double")).cast("float")
    rows, share = at_most(frame, limit, seed=seed, purpose=PURPOSE)
    table = rows.select(*spec.columns, "label", "sample_id", weight.alias("weight")).toArrow()
    draws = uniform(table.column("sample_id").to_numpy(), seed=seed, purpose=PURPOSE)
    return table.take(np.argsort(draws, kind="stable")), share
