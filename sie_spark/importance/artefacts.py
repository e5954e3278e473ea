"""Fitted artefacts: made by one pass a level, kept by digest, read by whoever comes later."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sie_spark.features.samples import split_rows
from sie_spark.importance.contracts import Fit, ModelRef, state_from_bytes, state_to_bytes
from sie_spark.importance.plan import Plan
from sie_spark.importance.worker import PARTS, ArtefactRef, FitRows, Pass
from sie_spark.platform.config.load import digest
from sie_spark.platform.context import Context
from sie_spark.platform.draws import at_most
from sie_spark.platform.errors import DataError, workers
from sie_spark.platform.result import TableRef
from sie_spark.platform.root import read_bytes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

FOLDER = "artefacts"
PARTITIONS = 16  # of a fit's pass: bounds the states that are merged, whatever the number of rows
SEED = 0


def digests(plan: Plan, known: Mapping[str, ModelRef], *, rows: str, limit: int, code: str) -> dict[str, str]:
    """Fit's key -> digest of all that its artefact depends on."""
    found: dict[str, str] = {}
    for level in plan.levels:
        for fit in level:
            found[fit.key] = digest(
                {
                    "fit": [fit.key, fit.version, fit.rows],
                    "models": [known[name].digest for name in fit.models],
                    "after": [found[before.key] for before in fit.after],
                    "rows": [rows, None if fit.whole else limit],
                    "code": code,
                }
            )
    return found


def place(fit: Fit, name: str) -> tuple[str, ...]:
    """Where an artefact lies under the root."""
    return (FOLDER, fit.key, name, "state.npz")


def fit_all(
    ctx: Context, plan: Plan, shared: Pass, samples: TableRef, names: Mapping[str, str]
) -> tuple[ArtefactRef, ...]:
    """The artefacts of a plan; those that are there by their digest are not fitted again.

    Parameters
    ----------
    shared:
        of the score pass; models and artefacts are those of each level here.
    names:
        see :func:`digests`.

    Raises
    ------
    DataError
        when the part that a fit reads has no rows.
    """
    done: dict[str, ArtefactRef] = {}
    for level in plan.levels:
        missing = [fit for fit in level if not ctx.root.exists(*place(fit, names[fit.key]))]
        for part, whole in sorted({(fit.rows, fit.whole) for fit in missing}):
            fits = tuple(fit for fit in missing if (fit.rows, fit.whole) == (part, whole))
            models = {name for fit in fits for name in fit.models}
            own = tuple(model for model in shared.known if model.name in models)
            before = tuple(done[read.key] for read in {b.key: b for fit in fits for b in fit.after}.values())
            ctx.progress.say(f"score: fit {', '.join(fit.key for fit in fits)} on the {part} part")
            frame = split_rows(ctx, samples.version, part)
            _fit(ctx, fits, replace(shared, models=own, artefacts=before), frame, names)
        for fit in level:
            uri = ctx.root.path(*place(fit, names[fit.key]))
            done[fit.key] = ArtefactRef(fit.key, uri, hashlib.sha256(read_bytes(uri)).hexdigest())
    return tuple(done.values())


def _fit(
    ctx: Context, fits: tuple[Fit, ...], shared: Pass, frame: DataFrame, names: Mapping[str, str]
) -> None:
    part, limit = fits[0].rows, ctx.config.importance.fit_rows
    folder = (FOLDER, "parts", digest([names[fit.key] for fit in fits]))
    ctx.root.remove(*folder)  # of a run that was killed
    rows = frame if fits[0].whole else at_most(frame, limit, seed=SEED, purpose="fit")[0]
    function = FitRows(shared, fits, ctx.root.uri, folder)
    with workers(
        "fitting what the scores read",
        remedy="mend what the message names, and run 'sie score' again",
        otherwise="look at the executors' logs for the task that failed",
    ):
        written = rows.coalesce(PARTITIONS).mapInArrow(function, PARTS).collect()  # partitions x fits
    if not written:
        raise DataError(
            f"the {part} part of the samples is empty, and {', '.join(fit.key for fit in fits)} is fitted on it",
            remedy="set dataset.split.validation_fraction, for example to 0.1, and run 'sie encode' again",
        )
    given = shared.given()
    for fit in fits:
        paths = [
            row["path"] for row in sorted(written, key=lambda row: row["partition"]) if row["fit"] == fit.key
        ]
        state = fit.finish(fit.merge(state_from_bytes(read_bytes(path)) for path in paths), given)
        ctx.root.write_bytes(state_to_bytes(state), *place(fit, names[fit.key]))
    ctx.root.remove(*folder)


def there(ctx: Context, plan: Plan, names: Mapping[str, Any]) -> dict[str, bool]:
    """Fit's key -> whether its artefact is there."""
    return {fit.key: ctx.root.exists(*place(fit, names[fit.key])) for level in plan.levels for fit in level}
