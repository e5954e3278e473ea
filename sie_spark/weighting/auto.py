"""``weighting.budget: auto``: small fits under the policy itself, in Spark tasks, say which share will do."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sie_spark.features.samples import encoder, split_rows
from sie_spark.models.store import REFERENCE, before_refit, current_model
from sie_spark.platform.code import code_digest
from sie_spark.platform.config.budget import AUTO
from sie_spark.platform.context import Context
from sie_spark.platform.draws import at_most, pilot_sample, uniform
from sie_spark.platform.errors import ConfigError, DataError
from sie_spark.platform.result import TableRef
from sie_spark.platform.root import read_bytes
from sie_spark.training.budget import budgeted
from sie_spark.training.trial import File, Trial, TryOne, in_tasks
from sie_spark.training.tuning import fit_settings
from sie_spark.weighting.arms import Plan, solve_arm
from sie_spark.weighting.budget import Choice, FullFit, choose, share_of
from sie_spark.weighting.select import kept_rows
from sie_spark.weighting.solving_sample import SolvingSample

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

FOLDER = "trials"


def depends_on(ctx: Context, plans: Sequence[Plan]) -> dict[str, Any]:
    """What budgets that are a time, or auto, depend on beside the scores; nothing for others."""
    if not any(isinstance(plan.budget, str) for plan in plans):
        return {}
    reference = current_model(ctx.root, REFERENCE)
    return {
        "reference": reference and reference.fingerprint,
        "margin": ctx.config.evaluation.margin,
        "training": ctx.config.fingerprint("training"),
        "code": code_digest("sie_spark.training.budget", "sie_spark.training.trial"),
    }


def full_fit(ctx: Context, samples: TableRef, rows: int) -> FullFit | None:
    """What the reference's fit took; None where there is no reference of these samples."""
    found = current_model(ctx.root, REFERENCE)
    encoded, _ = encoder(ctx)
    if found is None or found.encoder not in (None, encoded):
        return None
    return FullFit(rows, fit_settings(ctx, samples, encoded).training, float(found.details["seconds"]))


def resolved(
    ctx: Context, plans: list[Plan], scores: DataFrame, sample: SolvingSample, rows: int
) -> tuple[list[Plan], Choice | None]:
    """The plans with their budgets as shares, and what ``auto`` found where a plan asks for it."""
    choice, full = None, None
    samples = ctx.catalog.ref("samples")
    asked = [plan for plan in plans if plan.budget == AUTO and plan.as_many_as is None]
    if asked:
        choice = _choice(ctx, asked[0], scores, sample, samples)
        ctx.progress.say(f"weigh: {choice.words}")
    if any(isinstance(plan.budget, str) and plan.budget != AUTO for plan in plans):
        full = full_fit(ctx, samples, rows)
    shares = [
        choice.share
        if choice and plan.budget == AUTO
        else 1.0
        if plan.as_many_as
        else share_of(plan.budget, rows, full)
        for plan in plans
    ]
    return [replace(plan, budget=share) for plan, share in zip(plans, shares, strict=True)], choice


def _choice(ctx: Context, plan: Plan, scores: DataFrame, sample: SolvingSample, samples: TableRef) -> Choice:
    """Try shares on the training part, judged on the validation part.

    Raises
    ------
    ConfigError
        where there is no reference model to compare with.
    DataError
        without validation rows of both classes.
    """
    reference = current_model(ctx.root, REFERENCE)
    encoded, spec = encoder(ctx)
    if reference is None or reference.encoder not in (None, encoded):
        raise ConfigError(
            "weighting.budget=auto compares with the reference model, which was not fitted on these samples",
            remedy="set reference.fit=true and run 'sie train', or give weighting.budget a share",
        )
    settings, seed = fit_settings(ctx, samples, encoded), ctx.config.weighting.seed
    ctx.root.remove(FOLDER)  # of a run that was killed
    held, _ = at_most(
        split_rows(ctx, samples.version, "validation"),
        ctx.config.training.validation_rows,
        seed=seed,
        purpose="trial",
    )
    judged_on = _table(held, spec.columns, weight=True)
    positives = int((judged_on.column("label").to_numpy() > 0).sum()) if judged_on.num_rows else 0
    if positives in (0, judged_on.num_rows):
        raise DataError(
            "weighting.budget=auto is judged on validation rows, and they are none or of one class",
            remedy="set dataset.split.validation_fraction, for example to 0.1, or give weighting.budget a share",
        )
    validation = _write(ctx, judged_on, "validation", seed)
    train = scores.where("split = 'train'")
    total = train.count()
    path = before_refit(ctx.root, reference)
    full = (path, hashlib.sha256(read_bytes(path)).hexdigest())

    def attempt(shares: Sequence[float]) -> list[Trial]:
        trials = []
        for share in shares:
            arm = solve_arm(plan, share, sample)
            kept = kept_rows(train, [arm], seed=seed, pilot=pilot_sample(ctx.config))
            table = _table(kept, spec.columns, weight=False)
            training = budgeted(settings.training, table.num_rows, total)
            file = _write(ctx, table, f"{share:.4f}", seed)
            trials.append((share, file, training.model_dump(mode="json")))
        ctx.progress.say(
            f"weigh: trial fits at {', '.join(f'{share:.1%}' for share in shares)} of {total:,} rows"
        )
        return in_tasks(
            ctx.spark,
            TryOne(tuple(trials), validation, full, settings.model.model_dump(mode="json"), spec.as_dict()),
        )

    most = min(0.5, ctx.config.weighting.trial_rows / max(total, 1))
    began = time.monotonic()
    found = choose(attempt, ctx.config.evaluation.margin, most=most)
    ctx.root.remove(FOLDER)
    return replace(found, seconds=time.monotonic() - began)


def _table(frame: DataFrame, columns: Sequence[str], *, weight: bool) -> pa.Table:
    """Rows as the trials read them.

    Parameters
    ----------
    weight:
        give each row 1 / sampling_rate; kept rows have offset and weight already.
    """
    from pyspark.sql import functions as F

    more = (
        [(1 / F.col("sampling_rate").cast("double")).cast("float").alias("weight")]
        if weight
        else [F.col("offset"), F.col("weight")]
    )
    found: pa.Table = frame.select(*columns, "label", "sample_id", *more).toArrow()
    return found


def _write(ctx: Context, table: pa.Table, name: str, seed: int) -> File:
    """The rows in the order of a hash of their ids, as a file."""
    draws = uniform(table.column("sample_id").to_numpy(), seed=seed, purpose="trial_order")
    table = table.take(np.argsort(draws, kind="stable"))
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    return File(ctx.root.write_bytes(data, FOLDER, f"{name}.arrow"), hashlib.sha256(data).hexdigest())
