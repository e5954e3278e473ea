"""Stage ``retrain``: the same fit on the rows of every arm."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sie_spark.features.samples import encoder, part_rows
from sie_spark.models.store import (
    PILOT,
    REFERENCE,
    current_model,
    encoder_beside,
    encoder_of,
    require_model,
)
from sie_spark.platform.config.arms import CANDIDATE, Arm
from sie_spark.platform.context import Context
from sie_spark.platform.errors import ConfigError, StageOrderError
from sie_spark.platform.result import StageResult, TableRef
from sie_spark.platform.root import read_bytes
from sie_spark.training.arms import fit_arm, fit_code, up_to_date
from sie_spark.training.publish import FROM_MLFLOW, publish_arm, published_model
from sie_spark.training.train import adopt, reference_fingerprint
from sie_spark.training.tuning import FitSettings, fit_settings
from sie_spark.training.warm_start import Start

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def run(ctx: Context) -> StageResult:
    """Fit ``models/<arm>`` of every arm."""
    subset, samples = ctx.catalog.ref("training_set"), ctx.catalog.ref("samples")
    encoded = encoder(ctx)
    check_subset(ctx, encoded[0])
    settings = fit_settings(ctx, samples, encoded[0])
    full_rows = part_rows(ctx, samples.version, ["train"]).count()
    # where weigh recommends to keep all rows, the training set holds no copy of them
    kept = ctx.load_details("weigh").get("arms", {})
    everything = {name for name, found in kept.items() if found.get("keeps_all")}
    done: dict[str, Any] = {}
    fresh = False
    for name, arm in ctx.config.arms.items():
        whole = arm.rows == "all" or name in everything
        source = samples if whole else subset
        start = starting_model(ctx, name, arm, encoded[0])
        fingerprint = ctx.fingerprint(
            "retrain",
            code=fit_code(ctx),
            settings=settings.as_dict(),
            arm=name,
            start=start.digest if start else None,
            freeze=arm.freeze,
            source=source.content,
            samples=samples.content,
            encoder=encoded[0],
        )
        if not up_to_date(ctx, name, fingerprint):
            fresh = True
            if whole and start is None and is_reference(ctx, samples, encoded[0], settings):
                adopt(ctx, name, fingerprint)
            else:
                fit_arm(
                    ctx,
                    name,
                    partial(_rows, ctx, name, whole, source),
                    settings,
                    fingerprint=fingerprint,
                    encoded=encoded,
                    samples=samples,
                    full_rows=None if whole else full_rows,
                    start=start.model if start else None,
                    freeze=arm.freeze,
                )
            if name == CANDIDATE:  # the one that is meant to be served
                publish_arm(ctx, name)
        done[name] = require_model(ctx.root, name).details
    details = {"arms": done}
    ctx.save_details("retrain", details)
    metrics = {
        f"{measure}_{arm}": float(found[key])
        for arm, found in done.items()
        for measure, key in (("train_rows", "rows"), ("train_steps", "steps"), ("train_seconds", "seconds"))
    }
    if ctx.config.training.correct_intercept:
        metrics |= {f"intercept_shift_{arm}": float(found["shift"]) for arm, found in done.items()}
    inputs = {"training_set": subset, "samples": samples}
    return StageResult(inputs=inputs, metrics=metrics, details=details, skipped=not fresh)


def _rows(ctx: Context, arm: str, whole: bool, source: TableRef, parts: Sequence[str]) -> DataFrame:
    """An arm's rows of some parts: whole partitions of a table."""
    if whole:
        return part_rows(ctx, source.version, parts)
    chosen = ", ".join(f"'{part}'" for part in parts)
    table = ctx.catalog.read("training_set", version=source.version)
    return table.where(f"arm = '{arm}' AND split IN ({chosen})")


@dataclass(frozen=True)
class StartingModel:
    """What an arm starts from, and the SHA-256 of the model's file."""

    model: Start
    digest: str


def starting_model(ctx: Context, name: str, arm: Arm, encoded: str) -> StartingModel | None:
    """The model that ``arms.NAME.start`` names; None for fresh weights.

    Raises
    ------
    ConfigError
        for a place where no model lies, or one whose encoder is not beside it.
    """
    if arm.start is None:
        return None
    if arm.start in (PILOT, REFERENCE):
        uri = require_model(ctx.root, arm.start).path
    elif arm.start.startswith(FROM_MLFLOW):
        uri = published_model(ctx, arm.start.removeprefix(FROM_MLFLOW))
    else:
        uri = arm.start
    try:
        data = read_bytes(uri)
        known = encoder_of(data, where=uri)
    except OSError as error:
        raise ConfigError(
            f"arms.{name}.start: {uri}: {error.strerror or error}",
            remedy="give pilot, reference, mlflow:URI, or the path or URI of a model.pt",
        ) from None
    other = None if known == encoded else encoder_beside(uri, known)
    return StartingModel(Start(uri, other), hashlib.sha256(data).hexdigest())


def is_reference(ctx: Context, samples: TableRef, encoded: str, settings: FitSettings) -> bool:
    """Whether the reference model is there: an arm of all rows is that model."""
    found = current_model(ctx.root, REFERENCE)
    return found is not None and found.fingerprint == reference_fingerprint(ctx, samples, encoded, settings)


def check_subset(ctx: Context, encoded: str) -> None:
    """Refuse a training set whose rows another encoder made.

    Raises
    ------
    StageOrderError
        naming the stages to run.
    """
    known = ctx.load_details("weigh").get("encoder")
    if known not in (None, encoded):
        raise StageOrderError(
            f"training_set was drawn from rows of encoder {known}, the samples are of {encoded}",
            remedy="run 'sie train', 'sie score' and 'sie weigh' first, or 'sie run' for all stages",
        )
