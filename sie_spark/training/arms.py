"""Fits one arm (reference, full, weighted, random) from the rows of a table; the same code for all of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sie_spark.models.registry import model_code
from sie_spark.models.store import SavedModel, current_model, set_current
from sie_spark.platform.bisection import solve_increasing
from sie_spark.platform.context import Context
from sie_spark.platform.draws import uniform_column
from sie_spark.platform.errors import DataError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.sampling_rate import SamplingRate, correction_of
from sie_spark.training.distributed import launch, threads_per_rank
from sie_spark.training.job import Job
from sie_spark.training.manifest import Draw, build_manifest
from sie_spark.training.publish import log_losses

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

QUANTILES = 201
# what makes a fit other than it was; how ranks are started and models published does not
CODE = (
    "sie_spark.platform.draws",
    "sie_spark.platform.sampling_rate",
    *(
        f"sie_spark.training.{name}"
        for name in ("arms", "feed", "job", "loop", "manifest", "optimisers", "sync")
    ),
)


@dataclass(frozen=True)
class TableFacts:
    """What one bounded aggregate says about the rows of an arm."""

    rows: int
    base_rate: float
    mean_weight: float
    offsets: np.ndarray
    rate: SamplingRate


def fit_arm(
    ctx: Context,
    arm: str,
    frame: DataFrame,
    *,
    fingerprint: str,
    encoded: tuple[str, InputSpec],
    epochs: int | None = None,
    draw: Draw | None = None,
) -> dict[str, Any]:
    """Fit, save and make current one arm; an interrupted fit of the same fingerprint goes on.

    Parameters
    ----------
    encoded:
        what :func:`encoder` says of the rows.

    Returns
    -------
    rows, steps, epochs, seconds (of the fit) and wall_seconds (with manifest and start), loss per epoch.

    Raises
    ------
    DataError
        when the rows have labels of one class only.
    """
    began = time.monotonic()
    settings, (name, spec) = ctx.config.training, encoded
    if draw is not None and draw.fraction >= 1:
        draw = None
    facts = table_facts(frame, arm, draw)
    manifest = build_manifest(frame, draw=draw)
    ctx.progress.say(f"fit '{arm}': {manifest.rows:,} rows, {len(manifest.shards)} row groups")
    job = Job(
        root=ctx.root.uri,
        arm=arm,
        fingerprint=fingerprint,
        model=ctx.config.model.model_dump(mode="json"),
        inputs=spec.as_dict(),
        training=settings.model_dump(mode="json"),
        epochs=epochs,
        base_logit=base_logit(facts),
        mean_weight=facts.mean_weight,
        rate_offset=facts.rate.offset,
        weight_by_rate=facts.rate.weight_by_rate,
        threads=threads_per_rank(ctx.spark, settings),
        start_vectors=ctx.config.dataset.start_vectors is not None,
    )
    if ctx.config.run.force:
        ctx.root.remove(*job.folder, "state.pt")
    uri = job.save(manifest)
    history = launch(ctx.spark, settings, ctx.root, job.folder, uri)
    log_losses(arm, history["loss"])
    details = {
        "rows": manifest.rows,
        "base_rate": facts.base_rate,
        "manifest": manifest.hash,
        "distributed": settings.distributed,
        **{
            key: history[key]
            for key in ("steps", "epochs", "seconds", "loss", "processes", "resumed", "batch_size")
        },
        "wall_seconds": time.monotonic() - began,
    }
    path = ctx.root.path(*job.folder, "model.pt")
    set_current(ctx.root, SavedModel(arm, fingerprint, path, details, name))
    ctx.root.remove(*job.folder, "state.pt")
    ctx.progress.say(
        f"fit '{arm}': {details['steps']:,} steps, {details['epochs']} epochs in {details['seconds']:.1f}s,"
        f" last loss {details['loss'][-1]:.4f}"
    )
    return details


def table_facts(frame: DataFrame, arm: str, draw: Draw | None = None) -> TableFacts:
    """Rows, base rate, weights, offsets and sampling rates, from one aggregate.

    Raises
    ------
    DataError
        for no rows, or labels of one class only.
    """
    from pyspark.sql import functions as F

    if draw is not None:
        drawn = uniform_column(F.col("sample_id"), seed=draw.seed, purpose=draw.purpose)
        frame = frame.where(drawn < draw.fraction)
    weighted = "weight" in frame.columns
    # in training_set the rate is part of offset and weight already
    rates = "sampling_rate" in frame.columns and not weighted
    weight = F.col("weight").cast("double") if weighted else F.lit(1.0)
    label = F.col("label").cast("double")
    wanted = [
        F.count(F.lit(1)).alias("rows"),
        F.sum(weight).alias("weight"),
        F.sum(weight * label).alias("positive"),
        F.min(label).alias("low"),
        F.max(label).alias("high"),
    ]
    if weighted:
        at = [i / (QUANTILES - 1) for i in range(QUANTILES)]
        wanted.append(F.percentile_approx("offset", at, 10_000).alias("offsets"))
    if rates:
        rate, positive = F.col("sampling_rate").cast("double"), F.col("label") > 0
        wanted += [f(F.when(positive, rate)).alias(f"{n}1") for n, f in (("min", F.min), ("max", F.max))]
        wanted += [f(F.when(~positive, rate)).alias(f"{n}0") for n, f in (("min", F.min), ("max", F.max))]
        wanted.append(F.sum(1 / rate).alias("inverse"))
        wanted.append(F.sum(label / rate).alias("inverse_positive"))
    found = frame.agg(*wanted).first()
    if found is None or not found["rows"]:
        raise DataError(
            f"there is no row to fit '{arm}' on", remedy="check the split dates and what was kept"
        )
    if found["low"] == found["high"]:
        raise DataError(
            f"all {found['rows']:,} training rows of '{arm}' have label {found['low']:g}; a model needs both classes",
            remedy="check dataset.label, the attribution windows and the split",
        )
    offsets = np.array(found["offsets"], dtype=float) if weighted else np.zeros(1)
    correction = SamplingRate()
    mass, positive_mass = float(found["weight"]), float(found["positive"])
    if rates:
        correction = correction_of(found["min0"], found["max0"], found["min1"], found["max1"])
        if correction.weight_by_rate:
            mass, positive_mass = float(found["inverse"]), float(found["inverse_positive"])
        offsets = offsets + correction.offset
    rows = int(found["rows"])
    return TableFacts(rows, positive_mass / mass, mass / rows, offsets, correction)


def base_logit(facts: TableFacts) -> float:
    """The constant logit b with mean sigmoid(b + offset) equal to the base rate."""
    mean = lambda b: float(np.mean(1 / (1 + np.exp(-(b + facts.offsets)))))  # noqa: E731
    return solve_increasing(mean, facts.base_rate, -40.0, 40.0)


def fit_code(ctx: Context) -> tuple[str, ...]:
    """The code that a fitted model depends on, see :meth:`Context.fingerprint`."""
    return model_code(ctx.config.model, *CODE)


def up_to_date(ctx: Context, arm: str, fingerprint: str) -> bool:
    """Whether the arm's current model carries this fingerprint and a rebuild is not forced."""
    found = current_model(ctx.root, arm)
    return found is not None and found.fingerprint == fingerprint and not ctx.config.run.force
