"""Stage ``score``: the reference model goes over the training rows once and leaves every score beside its row."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from sie_spark.features.samples import encoder, split_rows
from sie_spark.importance.registry import SCORERS
from sie_spark.importance.worker import ScoreRows, build_engine, score_columns
from sie_spark.models.registry import model_code
from sie_spark.models.store import check_encoder, model_from_bytes, require_model
from sie_spark.platform.config.load import digest
from sie_spark.platform.context import Context
from sie_spark.platform.errors import RowIdentityError, worker_error
from sie_spark.platform.result import StageResult
from sie_spark.platform.root import read_bytes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CODE = ("sie_spark.importance", "sie_spark.gradients")


def run(ctx: Context) -> StageResult:
    """Write ``scores``: one row for every training row."""
    samples = ctx.catalog.ref("samples")
    reference = require_model(ctx.root, "reference")
    encoded, _ = encoder(ctx)
    check_encoder(reference, encoded)
    chosen = tuple(dict.fromkeys(ctx.config.importance.scorers))
    for name in chosen:
        SCORERS[name]  # an unknown name fails before any work
    data = read_bytes(reference.path)
    content = hashlib.sha256(data).hexdigest()
    fingerprint = ctx.fingerprint(
        "score",
        "importance.scorers",
        code=model_code(ctx.config.model, *CODE),
        samples=samples.content,
        model=content,
    )
    inputs = {"samples": samples}
    details = ctx.finished("score", fingerprint, table="scores")
    if details is not None:
        scores = ctx.catalog.ref("scores")
        return StageResult(
            inputs, {"scores": scores}, metrics=_metrics(details), details=details, skipped=True
        )

    # a model without exact gradients fails here, by parameter, and not inside a thousand tasks
    model, _ = model_from_bytes(data, where=reference.path)
    materialise = tuple(ctx.config.importance.materialise)
    build_engine(model, materialise)
    version = digest({"model": content, "scorers": chosen, "materialise": materialise})
    rows = split_rows(ctx, samples.version, "train")
    function = ScoreRows(
        reference.path,
        content,
        chosen,
        ctx.config.importance.micro_batch,
        task_threads(ctx.spark),
        materialise,
    )
    written, counts = _write(ctx, rows, function, version, fingerprint)
    if counts["read"] != counts["written"]:
        raise RowIdentityError(
            f"score read {counts['read']} rows and wrote {counts['written']}",
            remedy="run 'sie score --set run.force=true'; if it persists, report it with the model's class",
        )
    details = {
        "rows": counts["written"],
        "scorers": list(chosen),
        "scorer_version": version,
        "summary": counts["summary"],
        "encoder": encoded,
    }
    ctx.save_details("score", details, fingerprint=fingerprint)
    return StageResult(inputs, {"scores": written}, metrics=_metrics(details), details=details)


def _write(
    ctx: Context, rows: DataFrame, function: ScoreRows, version: str, fingerprint: str
) -> tuple[Any, dict[str, Any]]:
    from pyspark.sql import Observation
    from pyspark.sql import functions as F

    read, wrote = Observation("score_read"), Observation("score_written")
    names = score_columns(function.scorers)
    words = {"mean": F.mean, "sd": F.stddev_pop, "min": F.min, "max": F.max}
    summary = [
        aggregate(F.col(name)).alias(f"{word}:{name}") for name in names for word, aggregate in words.items()
    ]
    rows = rows.observe(read, F.count(F.lit(1)).alias("rows"))
    scored = score_rows(rows, function).withColumn("scorer_version", F.lit(version))
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
    """The rows with the columns of :func:`score_columns` (all double) appended."""
    from pyspark.sql.types import DoubleType, StructField, StructType

    # Arrow says of no column that it cannot be null
    kept = [StructField(field.name, field.dataType) for field in rows.schema.fields]
    added = [StructField(name, DoubleType()) for name in score_columns(function.scorers)]
    return rows.mapInArrow(function, StructType([*kept, *added]))


def task_threads(spark: SparkSession) -> int:
    """Cpus of a Spark task."""
    return max(1, int(spark.conf.get("spark.task.cpus", "1") or 1))


def _metrics(details: dict[str, Any]) -> dict[str, float]:
    summary = details.get("summary", {})
    return {"scored_rows": float(details.get("rows", 0))} | {
        f"mean_{name}": values["mean"] for name, values in summary.items()
    }
