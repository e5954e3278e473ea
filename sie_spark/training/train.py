"""Stage ``train``: settings for this data set, the pilot that scores for sampling, the reference that audits read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sie_spark.features.samples import encoder, part_rows
from sie_spark.models.store import PILOT, REFERENCE, SavedModel, current_model, require_model, set_current
from sie_spark.platform.context import Context
from sie_spark.platform.draws import pilot_sample
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.result import StageResult, TableRef
from sie_spark.training.arms import fit_arm, fit_code, up_to_date
from sie_spark.training.frozen import LAST_DATE, OLDER_ROWS, frozen, keep, mark
from sie_spark.training.tuning import FitSettings, tune

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

FEW_POSITIVES = 50  # of the validation rows


def run(ctx: Context) -> StageResult:
    """Search for settings, then fit ``models/reference`` on all training rows and ``models/pilot`` on some of them."""
    table = ctx.catalog.ref("samples")
    encoded = encoder(ctx)
    names = [*([REFERENCE] if ctx.config.fits_reference else []), PILOT]
    held = frozen(ctx, names, table, encoded[0])
    if held is not None:
        keep(ctx, held, table, encoded[0])
        seen = held[0].details.get(LAST_DATE)
        ctx.progress.say(
            f"train: {' and '.join(names)} stay as fitted on rows up to {seen} (reference.refit_after)"
        )
    settings = tune(ctx, table, encoded)
    done: dict[str, Any] = {}
    fresh = False
    for name in names:
        fresh |= _fit(ctx, name, table, encoded, settings, stays=held is not None)
        done[name] = require_model(ctx.root, name).details
    details = {"arms": done, "search": settings.found, "cautions": _cautions(ctx, settings)}
    ctx.save_details("train", details)
    metrics = {
        f"{name}_{measure}": float(found[measure])
        for name, found in done.items()
        for measure in ("rows", "steps", "seconds")
    }
    metrics |= {f"{name}_loss": float(found["loss"][-1]) for name, found in done.items()}
    if settings.found:
        metrics["search_seconds"] = float(settings.found["seconds"])
    return StageResult(inputs={"samples": table}, metrics=metrics, details=details, skipped=not fresh)


def _cautions(ctx: Context, settings: FitSettings) -> list[str]:
    said = []
    positives = settings.found.get("validation_positives", FEW_POSITIVES)
    if positives < FEW_POSITIVES:
        said.append(
            f"Only {positives:,} positive validation rows: the settings of all fits are chosen little better than by"
            " chance, and models may rank worse than plain ones."
        )
    if settings.model.name == ctx.config.model.name:
        return said
    return [
        *said,
        f"On these rows the linear model did better than every '{ctx.config.model.name}' that was tried: all models of"
        f" the run are '{settings.model.name}'. More rows may change that; training.tune=off keeps the model given.",
    ]


def _fit(
    ctx: Context,
    name: str,
    table: TableRef,
    encoded: tuple[str, InputSpec],
    settings: FitSettings,
    *,
    stays: bool,
) -> bool:
    """Fit one of the two unless it is up to date, or stays as it is for these rows too; whether it was fitted."""
    whole = name == REFERENCE or ctx.config.pilot.fraction >= 1
    fingerprint = (
        reference_fingerprint(ctx, table, encoded[0], settings)
        if whole
        else ctx.fingerprint(
            name,
            "pilot",
            code=fit_code(ctx),
            settings=settings.as_dict(),
            samples=table.content,
            encoder=encoded[0],
        )
    )
    fresh = not up_to_date(ctx, name, fingerprint)
    if stays:
        if fresh:
            model = require_model(ctx.root, name)
            details = {**model.details, OLDER_ROWS: True}
            set_current(ctx.root, replace(model, fingerprint=fingerprint, details=details))
        return False
    known = current_model(ctx.root, name)
    fresh |= known is not None and bool(known.details.get(OLDER_ROWS))
    if fresh and name == PILOT and whole and ctx.config.fits_reference:
        adopt(ctx, PILOT, fingerprint)
    elif fresh:

        def rows(parts: Sequence[str]) -> DataFrame:
            return part_rows(ctx, table.version, parts)

        capped = settings.training.model_copy(update={"cost_cap": ctx.config.pilot.cost_cap})
        fit_arm(
            ctx,
            name,
            rows,
            settings if whole else replace(settings, training=capped),
            fingerprint=fingerprint,
            encoded=encoded,
            samples=table,
            draw=None if whole else pilot_sample(ctx.config),
            full_rows=None if whole else part_rows(ctx, table.version, ["train"]).count(),
        )
    fitted = require_model(ctx.root, name)
    if ctx.config.reference.refit_after is not None and (fresh or LAST_DATE not in fitted.details):
        mark(ctx, fitted, table, encoded[0])
    return fresh


def reference_fingerprint(ctx: Context, samples: TableRef, encoded: str, settings: FitSettings) -> str:
    """What the reference model is fitted on and how."""
    return ctx.fingerprint(
        REFERENCE,
        code=fit_code(ctx),
        settings=settings.as_dict(),
        samples=samples.content,
        encoder=encoded,
    )


def adopt(ctx: Context, name: str, fingerprint: str) -> None:
    """Let the reference model be another one too, which would be fitted on the same rows in the same way."""
    found = require_model(ctx.root, REFERENCE)
    ctx.progress.say(f"fit '{name}': it is the reference model, on the same rows with the same settings")
    details = {**found.details, "same_as": REFERENCE}
    set_current(ctx.root, SavedModel(name, fingerprint, found.path, details, found.encoder))
