"""Fitted artefacts: made by one pass a level, kept by digest, read by whoever comes later."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sie_spark.features.samples import Part, split_rows
from sie_spark.importance.contracts import Fit, Given, State, state_from_bytes, state_to_bytes
from sie_spark.importance.fits.row_sample import PURPOSE, SEED
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


def digests(plan: Plan, given: Given, *, rows: str, code: str) -> dict[str, str]:
    """Fit's key -> digest of all that its artefact depends on."""
    found: dict[str, str] = {}
    for level in plan.levels:
        for fit in level:
            found[fit.key] = digest(
                {
                    "fit": [fit.key, fit.version, fit.rows],
                    "models": [given.models[name].digest for name in fit.models()],
                    "after": [found[before.key] for before in fit.after()],
                    "rows": [rows, fit.most(given.settings)] if fit.rows else [],
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
    settings = shared.settings
    for level in plan.levels:
        missing = [fit for fit in level if not ctx.root.exists(*place(fit, names[fit.key]))]
        passes: dict[tuple[Part | None, int | None], list[Fit]] = {}
        for fit in missing:
            passes.setdefault((fit.rows, fit.most(settings) if fit.rows else None), []).append(fit)
        for (part, _), fits in passes.items():
            models = {name for fit in fits for name in fit.models()}
            own = tuple(model for model in shared.known if model.name in models)
            keys = dict.fromkeys(before.key for fit in fits for before in fit.after())
            mine = replace(shared, models=own, artefacts=tuple(done[key] for key in keys))
            where = f"the {part} part" if part else "what was fitted before"
            ctx.progress.say(f"score: fit {', '.join(fit.key for fit in fits)} on {where}")
            states: dict[str, list[State]] = {fit.key: [] for fit in fits}
            if part is not None:
                states = _collected(ctx, fits, mine, split_rows(ctx, samples.version, part), names)
            given = mine.given()
            for fit in fits:
                state = fit.finish(fit.merge(states[fit.key]), given)
                ctx.root.write_bytes(state_to_bytes(state), *place(fit, names[fit.key]))
        for fit in level:
            uri = ctx.root.path(*place(fit, names[fit.key]))
            done[fit.key] = ArtefactRef(fit.key, uri, hashlib.sha256(read_bytes(uri)).hexdigest())
    return tuple(done.values())


def _collected(
    ctx: Context,
    fits: Sequence[Fit],
    shared: Pass,
    frame: DataFrame,
    names: Mapping[str, str],
) -> dict[str, list[State]]:
    """Fit's key -> the state of each partition, from one pass over rows."""
    folder, most = (FOLDER, "parts", digest([names[fit.key] for fit in fits])), fits[0].most(shared.settings)
    ctx.root.remove(*folder)  # of a run that was killed
    rows = frame if most is None else at_most(frame, most, seed=SEED, purpose=PURPOSE)[0]
    function = FitRows(shared, tuple(fits), ctx.root.uri, folder)
    with workers(
        "fitting what the scores read",
        remedy="mend what the message names, and run 'sie score' again",
        otherwise="look at the executors' logs for the task that failed",
    ):
        written = rows.coalesce(PARTITIONS).mapInArrow(function, PARTS).collect()  # partitions x fits
    if not written:
        raise DataError(
            f"the {fits[0].rows} part of the samples is empty, and {', '.join(fit.key for fit in fits)} is fitted on it",
            remedy="set dataset.split.validation_fraction, for example to 0.1, and run 'sie encode' again",
        )
    states: dict[str, list[State]] = {fit.key: [] for fit in fits}
    for row in sorted(written, key=lambda row: row["partition"]):
        states[row["fit"]].append(state_from_bytes(read_bytes(row["path"])))
    ctx.root.remove(*folder)
    return states


def there(ctx: Context, plan: Plan, names: Mapping[str, Any]) -> dict[str, bool]:
    """Fit's key -> whether its artefact is there."""
    return {fit.key: ctx.root.exists(*place(fit, names[fit.key])) for level in plan.levels for fit in level}


def warnings_of(ctx: Context, plan: Plan, names: Mapping[str, str]) -> list[str]:
    """What the artefacts of a plan say of themselves that a user should know."""
    said: list[str] = []
    for fit in [fit for level in plan.levels for fit in level if type(fit).cautions is not Fit.cautions]:
        if ctx.root.exists(*place(fit, names[fit.key])):
            said += fit.cautions(state_from_bytes(read_bytes(ctx.root.path(*place(fit, names[fit.key])))))
    return said
