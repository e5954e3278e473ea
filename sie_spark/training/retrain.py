"""Stage ``retrain``: the same fit on the rows of every arm."""

from __future__ import annotations

from typing import Any

from sie_spark.features.samples import encoder, split_rows
from sie_spark.models.store import SavedModel, current_model, require_model, set_current
from sie_spark.platform.config.arms import CANDIDATE
from sie_spark.platform.context import Context
from sie_spark.platform.errors import StageOrderError
from sie_spark.platform.result import StageResult, TableRef
from sie_spark.training.arms import fit_arm, fit_code, up_to_date
from sie_spark.training.publish import publish_arm
from sie_spark.training.train import reference_fingerprint


def run(ctx: Context) -> StageResult:
    """Fit ``models/<arm>`` of every arm."""
    subset, samples = ctx.catalog.ref("training_set"), ctx.catalog.ref("samples")
    encoded, spec = encoder(ctx)
    check_subset(ctx, encoded)
    done: dict[str, Any] = {}
    fresh = False
    for arm, settings in ctx.config.arms.items():
        whole = settings.rows == "all"
        source = samples if whole else subset
        fingerprint = ctx.fingerprint(
            "retrain",
            "model",
            "training",
            code=fit_code(ctx),
            arm=arm,
            source=source.content,
            encoder=encoded,
        )
        if not up_to_date(ctx, arm, fingerprint):
            fresh = True
            if whole and same_as_reference(ctx, samples, encoded):
                _adopt_reference(ctx, arm, fingerprint)
            else:
                frame = (
                    split_rows(ctx, samples.version, "train")
                    if whole
                    else ctx.catalog.read("training_set", version=subset.version).where(f"arm = '{arm}'")
                )
                fit_arm(ctx, arm, frame, fingerprint=fingerprint, encoded=(encoded, spec))
            if arm == CANDIDATE:  # the one that is meant to be served
                publish_arm(ctx, arm)
        done[arm] = require_model(ctx.root, arm).details
    details = {"arms": done}
    ctx.save_details("retrain", details)
    metrics = {
        f"{measure}_{arm}": float(found[key])
        for arm, found in done.items()
        for measure, key in (("train_rows", "rows"), ("train_steps", "steps"), ("train_seconds", "seconds"))
    }
    inputs = {"training_set": subset, "samples": samples}
    return StageResult(inputs=inputs, metrics=metrics, details=details, skipped=not fresh)


def same_as_reference(ctx: Context, samples: TableRef, encoded: str) -> bool:
    """Whether the pilot was fitted on all rows with the arm's own settings: the full arm is then that model."""
    pilot, training = ctx.config.pilot, ctx.config.training
    epochs = pilot.epochs or training.epochs
    if pilot.fraction < 1 or epochs != training.epochs:
        return False
    found = current_model(ctx.root, "reference")
    return found is not None and found.fingerprint == reference_fingerprint(ctx, samples, encoded)


def _adopt_reference(ctx: Context, arm: str, fingerprint: str) -> None:
    found = require_model(ctx.root, "reference")
    ctx.progress.say(
        f"fit '{arm}': the reference model was fitted on all rows with the same settings; it is that model"
    )
    details = {**found.details, "same_as": "reference"}
    set_current(ctx.root, SavedModel(arm, fingerprint, found.path, details, found.encoder))


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
