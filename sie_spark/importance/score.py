"""Stage ``score``: models go over the training rows once and leave every score beside its row."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sie_spark.features.samples import encoder, part_rows
from sie_spark.importance.artefacts import digests, fit_all, there, warnings_of
from sie_spark.importance.contracts import Given, ModelRef, Scorer
from sie_spark.importance.frames import score_rows
from sie_spark.importance.incremental import Standing, base_of, drift_of, standing_of
from sie_spark.importance.parts import factors, merged, part_columns, sampled, sums_by_part, whole_means
from sie_spark.importance.plan import Plan, make_plan, version_of
from sie_spark.importance.registry import SCORERS
from sie_spark.importance.worker import PROBABILITY, Pass, ScoreRows, build_engine, score_column
from sie_spark.models.registry import model_code
from sie_spark.models.store import (
    PILOT,
    REFERENCE,
    SavedModel,
    before_refit,
    check_encoder,
    current_model,
    kept_epochs,
    load_model,
    require_model,
)
from sie_spark.platform.code import code_digest
from sie_spark.platform.config import Training
from sie_spark.platform.config.load import digest
from sie_spark.platform.context import Context
from sie_spark.platform.errors import RowIdentityError, workers
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.result import StageResult, TableRef
from sie_spark.platform.root import read_bytes
from sie_spark.training.tuning import fit_settings

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, Observation, SparkSession

CODE = ("sie_spark.importance", "sie_spark.gradients")
VERSIONS = "scorer_versions"  # column: JSON, name of a score -> version of what made it


def run(ctx: Context, *, plan_only: bool = False) -> StageResult:
    """Write ``scores``: one row for every row that a fit may take, a column a scorer.

    A column whose scorer, models, artefacts and rows are those that made it is taken over as it is. Where the models
    stay as they are (``reference.refit_after``), and only some dates of the samples were written since, only these
    are scored, with the artefacts that there are. With ``plan_only`` the plan is printed, and nothing is done.
    """
    samples = ctx.catalog.ref("samples")
    pilot = require_model(ctx.root, PILOT)
    encoded, inputs_of_rows = encoder(ctx)
    check_encoder(pilot, encoded)
    wanted = [SCORERS[name] for name in ctx.config.scorers]
    known = known_models(ctx, pilot, fit_settings(ctx, samples, encoded).training)
    given = Given(known, settings=ctx.config.importance, inputs=inputs_of_rows)
    code = model_code(ctx.config.model, *CODE)
    rows_of = digest([encoded, ctx.config.training.parts])
    standing = standing_of(ctx, samples, known, rows_of)
    work = _work(ctx, wanted, given, base=standing.base, code=code_digest(*sorted(code)))
    if standing.dates and (work.plan.scorers or work.probability):  # a column that no row has yet
        standing = Standing(base_of(samples, rows_of))
        work = _work(ctx, wanted, given, base=standing.base, code=code_digest(*sorted(code)))
    if plan_only:
        table = work.plan.rows(given, there(ctx, work.plan, work.artefacts))
        ctx.progress.table("sie score --plan", ["pass", "rows", "models", "how", "state"], table)
        return StageResult({"samples": samples}, details={"plan": table}, skipped=True)

    fingerprint = ctx.fingerprint(
        "score", code=code, base=work.base, versions=work.versions, samples=samples.content
    )
    inputs = {"samples": samples}
    details = ctx.finished(
        "score", fingerprint, table="scores", scope=ctx.load_details("score").get("scope", "")
    )
    if details is not None:
        scores = ctx.catalog.ref("scores")
        return StageResult(
            inputs, {"scores": scores}, metrics=_metrics(details), details=details, skipped=True
        )
    began = time.monotonic()
    settings = ctx.config.importance
    if work.plan.gradient(given):
        # a model without exact gradients fails here, by parameter, and not inside a thousand tasks
        build_engine(load_model(pilot.path)[0], tuple(settings.materialise))
    shared = Pass(
        models=(),
        known=tuple(known.values()),
        artefacts=(),
        threads=task_threads(ctx.spark),
        inputs=inputs_of_rows,
        settings=settings,
    )
    where = standing.where
    plan = make_plan(wanted, given) if where else work.plan
    probability = work.probability or bool(where)
    artefacts = fit_all(ctx, plan, shared, samples, work.artefacts)
    names = {*plan.models(given), *([PILOT] if probability else [])}
    read = {fit.key for scorer in plan.scorers for fit in scorer.fits(given)}
    mine = replace(
        shared,
        models=tuple(known[name] for name in known if name in names),
        artefacts=tuple(artefact for artefact in artefacts if artefact.key in read),
    )
    function = ScoreRows(
        mine,
        tuple(scorer.name for scorer in plan.scorers),
        PILOT if probability else None,
    )
    rows = _rows(ctx, samples, work)
    if where:
        ctx.progress.say(f"score: rows of {standing.scope} alone; the models stay")
        rows = part_rows(ctx, samples.version, ctx.config.training.parts).where(where)
    scored, means = _scored(
        ctx, rows, function, inputs_of_rows, known_means(ctx, work.versions) if where else {}
    )
    written, counts = _write(
        ctx, scored, work.versions, fingerprint=fingerprint, where=where, scope=standing.scope
    )
    if counts["read"] != counts["written"]:
        raise RowIdentityError(
            f"score read {counts['read']} rows and wrote {counts['written']}",
            remedy="run 'sie score --set run.force=true'; if it persists, report it with the model's class",
        )
    cautions = warnings_of(ctx, make_plan(wanted, given), work.artefacts)
    drift = drift_of(ctx, samples, shared, where) if where else None
    details = {
        "rows": written.rows,
        "scorers": [scorer.name for scorer in wanted],
        "versions": work.versions,
        "computed": function.columns,
        "base": work.base,
        "made_by": fingerprint,
        "summary": _summary_of(ctx, work.versions) if where else counts["summary"],
        "encoder": encoded,
        "artefacts": work.artefacts,
        "samples": samples.content,
        "rows_of": rows_of,
        "models": {name: model.digest for name, model in known.items()},
        "scope": standing.scope,
        "mean_sizes": {**known_means(ctx, work.versions), **means},
        "drift": drift.as_dict() if drift else {},
        "cautions": [*cautions, *(drift.cautions() if drift else [])],
        "seconds": time.monotonic() - began + _seconds_before(ctx, work),
    }
    ctx.save_details("score", details, fingerprint=fingerprint)
    return StageResult(inputs, {"scores": written}, metrics=_metrics(details), details=details)


def known_models(ctx: Context, pilot: SavedModel, settings: Training) -> dict[str, ModelRef]:
    """The pilot; the reference before its refit, where there is one, and the models that its fit kept on its way.

    Each of these comes with the learning rate of its epoch.
    """
    found = {PILOT: _ref(PILOT, pilot.path, 0.0)}
    reference = current_model(ctx.root, REFERENCE)
    if reference is None or reference.encoder != pilot.encoder:
        return found
    path = before_refit(ctx.root, reference)
    found[REFERENCE] = _ref(REFERENCE, path, 0.0)
    for epoch, kept in kept_epochs(ctx.root, path).items():
        share = 1.0 - (epoch - 0.5) / settings.epochs if settings.schedule == "linear" else 1.0
        name = f"{REFERENCE}@{epoch}"
        found[name] = _ref(name, kept, settings.learning_rate * share)
    return found


def _ref(name: str, path: str, rate: float) -> ModelRef:
    return ModelRef(name, path, hashlib.sha256(read_bytes(path)).hexdigest(), rate)


@dataclass(frozen=True)
class _Work:
    """What is to be done: the plan, digests of its artefacts, and the version of every column that is wanted."""

    plan: Plan
    artefacts: dict[str, str]
    versions: dict[str, str]
    base: str
    probability: bool  # whether p is to be computed

    @property
    def kept(self) -> list[str]:
        """Columns taken over from the table."""
        return [] if self.probability else [PROBABILITY, *map(score_column, self.plan.kept)]


def _work(ctx: Context, wanted: Sequence[Scorer], given: Given, *, base: str, code: str) -> _Work:
    """Which columns are up to date, and the plan of those that are not."""
    whole = make_plan(wanted, given)
    artefacts = digests(whole, given, rows=base, code=code)
    settings = ctx.config.importance
    options = {"materialise": settings.materialise, "by": settings.by, "code": code}
    versions = {scorer.name: digest([version_of(scorer, given, artefacts), options]) for scorer in wanted}
    versions[PROBABILITY] = digest([given.models[PILOT].digest, code])
    held = _held(ctx, base)
    if held.get(PROBABILITY) != versions[PROBABILITY]:
        held = {}
    kept = [scorer.name for scorer in wanted if held.get(scorer.name) == versions[scorer.name]]
    plan = make_plan([scorer for scorer in wanted if scorer.name not in kept], given, kept)
    return _Work(plan, artefacts, versions, base, probability=not held)


def _held(ctx: Context, base: str) -> dict[str, str]:
    """Version of each column that table ``scores`` has of these rows; empty where it was made of others."""
    details = ctx.load_details("score")
    if ctx.config.run.force or details.get("base") != base or not ctx.catalog.exists("scores"):
        return {}
    made = ctx.catalog.fingerprint("scores", scope=details.get("scope", "")) == details.get("made_by")
    return dict(details["versions"]) if made else {}


def _seconds_before(ctx: Context, work: _Work) -> float:
    """What the columns took that are taken over, with all that was computed beside them."""
    return float(ctx.load_details("score").get("seconds", 0.0)) if work.kept else 0.0


def _rows(ctx: Context, samples: TableRef, work: _Work) -> DataFrame:
    """The rows that fits may take, with the columns that are taken over where there are some."""
    if not work.kept:
        return part_rows(ctx, samples.version, ctx.config.training.parts)
    scores = ctx.catalog.read("scores", version=ctx.catalog.version("scores"))
    others = [name for name in scores.columns if name.startswith("score_") or name in (PROBABILITY, VERSIONS)]
    return scores.select(*[name for name in scores.columns if name not in others], *work.kept)


def known_means(ctx: Context, versions: Mapping[str, str]) -> dict[str, float]:
    """Mean sizes that scores of these versions were brought to before, by column (``importance.by``)."""
    earlier = ctx.load_details("score")
    same = {
        score_column(name) for name, made in versions.items() if earlier.get("versions", {}).get(name) == made
    }
    return {name: mean for name, mean in earlier.get("mean_sizes", {}).items() if name in same}


def _scored(
    ctx: Context, rows: DataFrame, function: ScoreRows, inputs: InputSpec, means: Mapping[str, float]
) -> tuple[tuple[DataFrame, Observation], dict[str, float]]:
    """The scored rows with what counts those that were read; and the mean sizes that their new scores are brought to."""
    from pyspark.sql import Observation
    from pyspark.sql import functions as F

    read, settings = Observation("score_read"), ctx.config.importance
    parts = part_columns(settings.by, rows.columns, inputs)
    observed = rows.observe(read, F.count(F.lit(1)).alias("rows"))
    scored = score_rows(observed, function)
    names = [name for name in function.columns if name != PROBABILITY]
    if not parts or not names:
        return (scored, read), {}
    ctx.progress.say(f"score: mean sizes by {', '.join(settings.by)}")
    with workers(
        "scoring a sample of rows",
        remedy="mend what the message names; 'sie score' alone repeats only this stage",
        otherwise="look at the executors' logs for the task that failed",
    ):
        sample = score_rows(sampled(rows, settings.fit_rows), function)
        counted = sums_by_part(sample, parts, names)
    known = set(names) <= set(means)
    found = {name: means[name] for name in names} if known else whole_means(counted, names)
    scale = factors(ctx.spark, counted, found)
    return (merged(scored, parts, scale, names), read), found


def _write(
    ctx: Context,
    scored: tuple[DataFrame, Observation],
    versions: Mapping[str, str],
    *,
    fingerprint: str,
    where: str | None,
    scope: str,
) -> tuple[TableRef, dict[str, Any]]:
    from pyspark.sql import Observation
    from pyspark.sql import functions as F

    (rows, read), wrote = scored, Observation("score_written")
    # one text, which Parquet keeps once a file; a map would write its entries anew for every row
    rows = rows.withColumn(VERSIONS, F.lit(json.dumps(dict(versions), sort_keys=True)))
    rows = rows.observe(wrote, F.count(F.lit(1)).alias("rows"), *_summary_columns(versions))
    with workers(
        "scoring",
        remedy="mend what the message names; 'sie score' alone repeats only this stage",
        otherwise="look at the executors' logs for the task that failed",
    ):
        ref = ctx.catalog.replace(
            rows, "scores", where=where, fingerprint=fingerprint, job="score", scope=scope
        )
    found = wrote.get
    counts = {"read": int(read.get.get("rows") or 0), "written": int(found.get("rows") or 0)}
    return ref, {**counts, "summary": _summary(versions, found)}


def _summary_columns(versions: Mapping[str, str]) -> list[Column]:
    from pyspark.sql import functions as F

    words = {"mean": F.mean, "sd": F.stddev_pop, "min": F.min, "max": F.max}
    return [
        aggregate(F.col(name)).alias(f"{word}:{name}")
        for name in _columns(versions)
        for word, aggregate in words.items()
    ]


def _columns(versions: Mapping[str, str]) -> list[str]:
    return [PROBABILITY, *(score_column(name) for name in versions if name != PROBABILITY)]


def _summary(versions: Mapping[str, str], found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Column -> mean, sd, min and max, of those that have rows."""
    return {
        name: {word: float(found[f"{word}:{name}"]) for word in ("mean", "sd", "min", "max")}
        for name in _columns(versions)
        if found.get(f"mean:{name}") is not None
    }


def _summary_of(ctx: Context, versions: Mapping[str, str]) -> dict[str, dict[str, float]]:
    row = ctx.catalog.read("scores").agg(*_summary_columns(versions)).first()
    return _summary(versions, row.asDict() if row else {})


def task_threads(spark: SparkSession) -> int:
    """Cpus of a Spark task."""
    return max(1, int(spark.conf.get("spark.task.cpus", "1") or 1))


def _metrics(details: dict[str, Any]) -> dict[str, float]:
    summary = details.get("summary", {})
    return {"scored_rows": float(details.get("rows", 0))} | {
        f"mean_{name}": values["mean"] for name, values in summary.items()
    }
