"""Stage ``train``: the reference model (the pilot) that scores, fitted on a uniform sample of the training rows."""

from __future__ import annotations

from sie_spark.features.samples import encoder, split_rows
from sie_spark.models.store import require_model
from sie_spark.platform.context import Context
from sie_spark.platform.result import StageResult, TableRef
from sie_spark.training.arms import fit_arm, fit_code, up_to_date
from sie_spark.training.manifest import Draw


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
            split_rows(ctx, table.version, "train"),
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
    return ctx.fingerprint(
        "train", "model", "pilot", "training", code=fit_code(ctx), samples=samples.content, encoder=encoded
    )
