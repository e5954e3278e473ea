"""Stage ``train``: the reference model (the pilot) that scores, fitted on a uniform sample of the training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sie_spark.platform.context import Context
from sie_spark.platform.result import StageResult, TableRef
from sie_spark.training.arms import encoder, fit_arm, up_to_date
from sie_spark.training.checkpoint import require_model
from sie_spark.training.manifest import Draw

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def run(ctx: Context) -> StageResult:
    """Fit ``models/reference``."""
    table = ctx.catalog.ref("samples")
    encoded, spec = encoder(ctx)
    fingerprint = reference_fingerprint(ctx, table, encoded)
    skipped = up_to_date(ctx, "reference", fingerprint)
    if not skipped:
        pilot = ctx.config.pilot
        fit_arm(
            ctx,
            "reference",
            training_rows(ctx, table.version),
            fingerprint=fingerprint,
            encoded=(encoded, spec),
            epochs=pilot.epochs,
            draw=Draw(pilot.fraction, ctx.config.training.seed, "pilot"),
        )
    details = {"arms": {"reference": require_model(ctx.root, "reference").details}}
    ctx.save_details("train", details)
    found = details["arms"]["reference"]
    metrics = {
        "pilot_rows": float(found["rows"]),
        "pilot_steps": float(found["steps"]),
        "pilot_seconds": float(found["seconds"]),
        "pilot_loss": float(found["loss"][-1]),
    }
    return StageResult(inputs={"samples": table}, metrics=metrics, details=details, skipped=skipped)


def reference_fingerprint(ctx: Context, samples: TableRef, encoded: str) -> str:
    """What the reference model is fitted on and how."""
    return ctx.fingerprint("train", "model", "pilot", "training", samples=samples.content, encoder=encoded)


def training_rows(ctx: Context, version: int) -> DataFrame:
    """The encoded rows before the cut."""
    return ctx.catalog.read("samples", version=version).where("split = 'train'")
