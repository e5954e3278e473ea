"""Stage ``score``: models go over the training rows once and leave every score beside its row."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sie_spark.features.samples import encoder, split_rows
from sie_spark.importance.artefacts import digests, fit_all, there
from sie_spark.importance.contracts import REFERENCE, ModelRef, Scorer
from sie_spark.importance.plan import Plan, make_plan, version_of
from sie_spark.importance.registry import SCORERS
from sie_spark.importance.worker import PROBABILITY, Pass, ScoreRows, build_engine, score_column
from sie_spark.models.registry import model_code
from sie_spark.models.store import SavedModel, check_encoder, kept_epochs, load_model, require_model
from sie_spark.platform.code import code_digest
from sie_spark.platform.config import Training
from sie_spark.platform.config.load import digest
from sie_spark.platform.context import Context
from sie_spark.platform.errors import RowIdentityError, worker_error
from sie_spark.platform.result import StageResult, TableRef
from sie_spark.platform.root import Root, read_bytes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CODE = ("sie_spark.importance", "sie_spark.gradients")
VERSIONS = "scorer_versions"  # column: name of a score -> version of what made it


def run(ctx: Context, *, plan_only: bool = False) -> StageResult:
    """Write ``scores``: one row for every training row, a column a scorer.

    A column whose scorer, models, artefacts and rows are those that made it is taken over as it is. With
    ``plan_only`` the plan is printed, and nothing is done.
    """
    samples = ctx.catalog.ref("samples")
    reference = require_model(ctx.root, REFERENCE)
    encoded, _ = encoder(ctx)
    check_encoder(reference, encoded)
    wanted = [SCORERS[name] for name in dict.fromkeys(ctx.config.importance.scorers)]
    known = known_models(ctx.root, reference, ctx.config.training)
    code = model_code(ctx.config.model, *CODE)
    work = _work(ctx, wanted, known, base=digest([samples.content, encoded]), code=code_digest(*sorted(code)))
    if plan_only:
        table = work.plan.rows(known, there(ctx, work.plan, work.artefacts))
        ctx.progress.table("sie score --plan", ["pass", "rows", "models", "how", "state"], table)
        return StageResult({"samples": samples}, details={"plan": table}, skipped=True)

    fingerprint = ctx.fingerprint(
        "score", "importance.scorers", code=code, base=work.base, versions=work.versions
    )
    inputs = {"samples": samples}
    details = ctx.finished("score", fingerprint, table="scores")
    if details is not None:
        scores = ctx.catalog.ref("scores")
        return StageResult(
            inputs, {"scores": scores}, metrics=_metrics(details), details=details, skipped=True
        )
    settings = ctx.config.importance
    if work.plan.gradient:
        # a model without exact gradients fails here, by parameter, and not inside a thousand tasks
        build_engine(load_model(reference.path)[0], tuple(settings.materialise))
    shared = Pass(
        models=(),
        known=tuple(known.values()),
        artefacts=(),
        micro_batch=settings.micro_batch,
        threads=task_threads(ctx.spark),
        materialise=tuple(settings.materialise),
    )
    artefacts = fit_all(ctx, work.plan, shared, samples, work.artefacts)
    names = {*work.plan.models(known), *([REFERENCE] if work.probability else [])}
    function = ScoreRows(
        replace(shared, models=tuple(known[name] for name in known if name in names), artefacts=artefacts),
        tuple(scorer.name for scorer in work.plan.scorers),
        REFERENCE if work.probability else None,
    )
    written, counts = _write(ctx, _rows(ctx, samples, work), function, work.versions, fingerprint)
    if counts["read"] != counts["written"]:
        raise RowIdentityError(
            f"score read {counts['read']} rows and wrote {counts['written']}",
            remedy="run 'sie score --set run.force=true'; if it persists, report it with the model's class",
        )
    details = {
        "rows": counts["written"],
        "scorers": [scorer.name for scorer in wanted],
        "versions": work.versions,
        "computed": function.columns,
        "base": work.base,
        "made_by": fingerprint,
        "summary": counts["summary"],
        "encoder": encoded,
    }
    ctx.save_details("score", details, fingerprint=fingerprint)
    return StageResult(inputs, {"scores": written}, metrics=_metrics(details), details=details)


def known_models(root: Root, reference: SavedModel, training: Training) -> dict[str, ModelRef]:
    """The reference model and those that its fit kept on its way, each with the learning rate of its epoch."""
    found = {REFERENCE: _ref(REFERENCE, reference.path, 0.0)}
    epochs = int(reference.details.get("epochs", training.epochs))
    for epoch, path in kept_epochs(root, reference).items():
        share = 1.0 - (epoch - 0.5) / epochs if training.schedule == "linear" else 1.0
        name = f"{REFERENCE}@{epoch}"
        found[name] = _ref(name, path, training.learning_rate * share)
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


def _work(
    ctx: Context, wanted: Sequence[Scorer], known: Mapping[str, ModelRef], *, base: str, code: str
) -> _Work:
    """Which columns are up to date, and the plan of those that are not."""
    whole = make_plan(wanted, known)
    artefacts = digests(whole, known, rows=base, limit=ctx.config.importance.fit_rows, code=code)
    options = {"materialise": ctx.config.importance.materialise, "code": code}
    versions = {scorer.name: digest([version_of(scorer, known, artefacts), options]) for scorer in wanted}
    versions[PROBABILITY] = digest([known[REFERENCE].digest, code])
    held = _held(ctx, base)
    if held.get(PROBABILITY) != versions[PROBABILITY]:
        held = {}
    kept = [scorer.name for scorer in wanted if held.get(scorer.name) == versions[scorer.name]]
    plan = make_plan([scorer for scorer in wanted if scorer.name not in kept], known, kept)
    return _Work(plan, artefacts, versions, base, probability=not held)


def _held(ctx: Context, base: str) -> dict[str, str]:
    """Version of each column that table ``scores`` has of these rows; empty where it was made of others."""
    details = ctx.load_details("score")
    if ctx.config.run.force or details.get("base") != base or not ctx.catalog.exists("scores"):
        return {}
    made = ctx.catalog.fingerprint("scores") == details.get("made_by")
    return dict(details["versions"]) if made else {}


def _rows(ctx: Context, samples: TableRef, work: _Work) -> DataFrame:
    """The training rows, with the columns that are taken over where there are some."""
    if not work.kept:
        return split_rows(ctx, samples.version, "train")
    scores = ctx.catalog.read("scores", version=ctx.catalog.version("scores"))
    others = [name for name in scores.columns if name.startswith("score_") or name in (PROBABILITY, VERSIONS)]
    return scores.select(*[name for name in scores.columns if name not in others], *work.kept)


def _write(
    ctx: Context, rows: DataFrame, function: ScoreRows, versions: Mapping[str, str], fingerprint: str
) -> tuple[TableRef, dict[str, Any]]:
    from pyspark.sql import Observation
    from pyspark.sql import functions as F

    read, wrote = Observation("score_read"), Observation("score_written")
    names = [PROBABILITY, *(score_column(name) for name in versions if name != PROBABILITY)]
    words = {"mean": F.mean, "sd": F.stddev_pop, "min": F.min, "max": F.max}
    summary = [
        aggregate(F.col(name)).alias(f"{word}:{name}") for name in names for word, aggregate in words.items()
    ]
    rows = rows.observe(read, F.count(F.lit(1)).alias("rows"))
    pairs = [F.lit(text) for name in sorted(versions) for text in (name, versions[name])]
    scored = score_rows(rows, function).withColumn(VERSIONS, F.create_map(*pairs))
    scored = scored.observe(wrote, F.count(F.lit(1)).alias("rows"), *summary)
    try:
        ref = ctx.catalog.replace(scored, "scores", fingerprint=fingerprint, job="score")
    except Exception as error:  # a worker's failure arrives as py4j's, PySpark's or Connect's own type
        raise worker_error(
            error,
            "scoring",
            remedy="mend what the message names; 'sie score' alone repeats only this stage",
            otherwise="look at the executors' logs for the task that failed",
        ) from error
    found = wrote.get
    table = {
        name: {word: float(found[f"{word}:{name}"]) for word in words}
        for name in names
        if found.get(f"mean:{name}") is not None
    }
    return ref, {"read": int(read.get["rows"]), "written": int(found["rows"]), "summary": table}


def score_rows(rows: DataFrame, function: ScoreRows) -> DataFrame:
    """The rows with the function's columns (all double) appended; untouched where it has none."""
    from pyspark.sql.types import DoubleType, StructField, StructType

    if not function.columns:
        return rows
    # Arrow says of no column that it cannot be null
    kept = [StructField(field.name, field.dataType) for field in rows.schema.fields]
    added = [StructField(name, DoubleType()) for name in function.columns]
    return rows.mapInArrow(function, StructType([*kept, *added]))


def task_threads(spark: SparkSession) -> int:
    """Cpus of a Spark task."""
    return max(1, int(spark.conf.get("spark.task.cpus", "1") or 1))


def _metrics(details: dict[str, Any]) -> dict[str, float]:
    summary = details.get("summary", {})
    return {"scored_rows": float(details.get("rows", 0))} | {
        f"mean_{name}": values["mean"] for name, values in summary.items()
    }
