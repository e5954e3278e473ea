"""Fits one model (pilot, reference, an arm's) from the rows of a table; the same code for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sie_spark.features.encoder import path_of
from sie_spark.features.samples import split_rows
from sie_spark.models.registry import model_code
from sie_spark.models.store import FIT, VALIDATED, SavedModel, current_model, model_folder, set_current
from sie_spark.platform.bisection import solve_increasing
from sie_spark.platform.config import Model, Training
from sie_spark.platform.context import Context
from sie_spark.platform.draws import Draw
from sie_spark.platform.errors import DataError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.result import TableRef
from sie_spark.platform.sampling_rate import SamplingRate, correction_of
from sie_spark.training.budget import budgeted
from sie_spark.training.distributed import launch, threads_per_rank
from sie_spark.training.feed import LANES
from sie_spark.training.job import Job
from sie_spark.training.manifest import Manifest, build_manifest
from sie_spark.training.publish import log_losses
from sie_spark.training.tuning import FitSettings
from sie_spark.training.warm_start import Start

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

QUANTILES = 201
# what makes a fit other than it was; how ranks are started and models published does not
CODE = (
    "sie_spark.platform.draws",
    "sie_spark.platform.sampling_rate",
    *(
        f"sie_spark.training.{name}"
        for name in (
            *(
                "arms",
                "budget",
                "feed",
                "intercept",
                "job",
                "loop",
                "manifest",
                "memory",
                "optimisers",
                "sync",
            ),
        )
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
    rows: Callable[[Sequence[str]], DataFrame],
    settings: FitSettings,
    *,
    fingerprint: str,
    encoded: tuple[str, InputSpec],
    samples: TableRef,
    draw: Draw | None = None,
    full_rows: int | None = None,
    start: Start | None = None,
    freeze: Sequence[str] = (),
) -> dict[str, Any]:
    """Fit, save and make current one arm; an interrupted fit of the same fingerprint goes on.

    Where there are validation rows, the arm is first fitted on the training part and judged on them after every
    pass; then, with ``training.refit``, once more on both parts with as many passes as were best.

    Parameters
    ----------
    rows:
        the arm's rows of some parts (``train``, ``validation``).
    settings:
        chosen for all rows; a subset of ``full_rows`` of them is :func:`budgeted`.
    encoded:
        what :func:`encoder` says of the rows.
    start:
        the model to start from; None for fresh weights.
    freeze:
        beginnings of names of parameters that stay as they are.

    Returns
    -------
    rows, steps, epochs, seconds (of the fits) and wall_seconds (with manifest and start), loss per epoch; and
    ``validated``, the same of the fit that was judged, with its validation loss per epoch.

    Raises
    ------
    DataError
        when the rows have labels of one class only.
    """
    began = time.monotonic()
    draw = None if draw is not None and draw.fraction >= 1 else draw
    train = rows(["train"])
    facts = table_facts(train, arm, draw)
    training = settings.training
    if full_rows is not None:
        training = budgeted(training, facts.rows, full_rows)
    making = _Making(ctx, arm, fingerprint, encoded, settings.model, training, start, tuple(freeze))
    judged_on = _validation(ctx, samples)
    if judged_on is None:
        found = making.fit(train, facts, draw)
    else:
        validated = making.fit(train, facts, draw, part=VALIDATED, judged_on=judged_on)
        found = validated
        if training.refit:
            frame = rows(["train", "validation"])
            again = table_facts(frame, arm, draw)
            # the rate falls to nothing over the passes that are made, whatever it fell over before
            passes = training.model_copy(update={"epochs": validated["best_epoch"]})
            found = replace(making, training=passes).fit(frame, again, draw, shift=validated["shift"])
        found = {
            **found,
            "seconds": found["seconds"] + (validated["seconds"] if training.refit else 0.0),
            "validated": {**validated, "validation_rows": judged_on.rows},
        }
    log_losses(arm, found["loss"], found.get("validated", {}).get("validation", []))
    details = {
        **found,
        "batch_size": training.batch_size,
        "learning_rate": training.learning_rate,
        "distributed": training.distributed,
        "start": start.uri if start else None,
        "wall_seconds": time.monotonic() - began,
    }
    part = FIT if judged_on is None or training.refit else VALIDATED
    path = ctx.root.path(*model_folder(arm, fingerprint, part), "model.pt")
    set_current(ctx.root, SavedModel(arm, fingerprint, path, details, encoded[0]))
    making.clear()
    return details


@dataclass(frozen=True)
class _Making:
    """An arm in the making: what its one or two fits share."""

    ctx: Context
    arm: str
    fingerprint: str
    encoded: tuple[str, InputSpec]
    model: Model
    training: Training
    start: Start | None
    freeze: tuple[str, ...]

    def fit(
        self,
        frame: DataFrame,
        facts: TableFacts,
        draw: Draw | None,
        *,
        part: str = FIT,
        judged_on: Manifest | None = None,
        shift: float = 0.0,
    ) -> dict[str, Any]:
        """One fit, from its manifest to its history."""
        ctx, training = self.ctx, self.training
        manifest = build_manifest(frame, draw=draw)
        ctx.progress.say(f"fit '{self.arm}': {manifest.rows:,} rows, {len(manifest.shards)} row groups")
        job = Job(
            root=ctx.root.uri,
            arm=self.arm,
            fingerprint=self.fingerprint,
            model=self.model.model_dump(mode="json"),
            inputs=self.encoded[1].as_dict(),
            training=training.model_dump(mode="json"),
            part=part,
            judged=judged_on is not None,
            base_logit=base_logit(facts),
            mean_weight=facts.mean_weight,
            rate_offset=facts.rate.offset,
            weight_by_rate=facts.rate.weight_by_rate,
            threads=threads_per_rank(ctx.spark, training),
            start_vectors=ctx.config.dataset.start_vectors is not None,
            encoder=path_of(ctx.root, self.encoded[0]),
            start=self.start.uri if self.start else None,
            start_encoder=self.start.encoder if self.start else None,
            freeze=list(self.freeze),
            correct=judged_on is not None and training.correct_intercept,
            shift=shift,
        )
        if ctx.config.run.force:
            ctx.root.remove(*job.folder, "state.pt")
        uri = job.save(manifest, judged_on)
        history = launch(ctx.spark, training, ctx.root, job.folder, uri)
        best = f", best after epoch {history['best_epoch']}" if judged_on is not None else ""
        if job.correct:
            moved = (
                f"moved by {history['shift']:+.4f}"
                if history["shift"]
                else "not moved, it is within its error"
            )
            best += f", intercept {moved}"
        ctx.progress.say(
            f"fit '{self.arm}': {history['steps']:,} steps, {history['epochs']} epochs in {history['seconds']:.1f}s,"
            f" last loss {history['loss'][-1]:.4f}{best}"
        )
        kept = (
            "steps",
            "epochs",
            "best_epoch",
            "seconds",
            "loss",
            "validation",
            "processes",
            "resumed",
            "shift",
        )
        return {
            "rows": manifest.rows,
            "base_rate": facts.base_rate,
            "manifest": manifest.hash,
            **{key: history[key] for key in kept},
        }

    def clear(self) -> None:
        """Remove what an interrupted fit would go on from."""
        for part in (FIT, VALIDATED):
            self.ctx.root.remove(*model_folder(self.arm, self.fingerprint, part), "state.pt")


def _validation(ctx: Context, samples: TableRef) -> Manifest | None:
    """The validation rows that fits are judged on; None where there are none, or too few to be shared by ranks."""
    training = ctx.config.training
    frame = split_rows(ctx, samples.version, "validation")
    found = frame.agg({"*": "count"}).first()
    total = int(found[0]) if found else 0
    if total < max(LANES, training.processes):
        return None
    share = training.validation_rows / total
    return build_manifest(frame, draw=Draw(share, training.seed, "validation") if share < 1 else None)


def table_facts(frame: DataFrame, arm: str, draw: Draw | None = None) -> TableFacts:
    """Rows, base rate, weights, offsets and sampling rates, from one aggregate.

    Raises
    ------
    DataError
        for no rows, or labels of one class only.
    """
    from pyspark.sql import functions as F

    if draw is not None:
        frame = frame.where(draw.column(F.col("sample_id")))
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
    """Whether the arm's current model is up to date."""
    found = current_model(ctx.root, arm)
    return ctx.up_to_date(fingerprint, found.fingerprint if found else None)
