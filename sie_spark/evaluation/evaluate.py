"""Stage ``evaluate``: every arm judged on the same untouched test rows, with intervals and a verdict."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sie_spark.evaluation import counts
from sie_spark.evaluation.bins import add_bins, lay_bins
from sie_spark.evaluation.cautions import cautions
from sie_spark.evaluation.costs import cost_metrics, costs_now
from sie_spark.evaluation.counts import Clusters
from sie_spark.evaluation.predict import ArmModel, PredictRows
from sie_spark.evaluation.replicates import replicate_group_auc, replicate_metrics
from sie_spark.features.samples import Part, encoder, split_rows
from sie_spark.metrics.intervals import interval, tost
from sie_spark.models import Batch
from sie_spark.models.registry import model_code
from sie_spark.models.store import check_encoder, current_model, require_model
from sie_spark.platform.arms import pairs, titles
from sie_spark.platform.config.arms import CANDIDATE
from sie_spark.platform.context import Context
from sie_spark.platform.draws import at_most
from sie_spark.platform.errors import DataError, workers
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.result import StageResult, TableRef
from sie_spark.platform.root import read_bytes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from sie_spark.evaluation.yardsticks import Yardstick

JOB = "evaluate"
NAMES = ("auc", "gauc", "logloss", "ne", "calibration", "ece")
REPORTED = (
    "auc",
    "gauc",
    "gauc_groups",
    "logloss",
    "ne",
    "calibration",
)  # of these, StageResult.metrics has one an arm
KEEP = ("sample_id", "group_id", "position", "label", "sampling_rate", "event_date")
SLICED = ("item_id", "user_id")
LEAST_CLUSTERS = 20  # effective ones; with 2 to 5, 95 % intervals held the truth in 63 to 90 of 100 logs

CODE = ("sie_spark.evaluation", "sie_spark.metrics")


def run(ctx: Context) -> StageResult:
    """Write ``predictions`` and ``metrics``.

    Raises
    ------
    DataError
        for test rows of one class only, or none.
    StageOrderError
        when there is no weighted model, or an arm was fitted on rows of another encoder.
    """
    samples = ctx.catalog.ref("samples")
    arms = find_arms(ctx)
    recommended = (ctx.load_details("weigh").get("auto") or {}).get("words", "")
    fingerprint = ctx.fingerprint(
        JOB,
        "evaluation",
        "arms",
        code=model_code(ctx.config.model, *CODE),
        refit=ctx.config.training.refit,
        samples=samples.content,
        models={arm.arm: arm.digest for arm in arms},
        recommended=recommended,
    )
    inputs = {"samples": samples}
    done = ctx.finished(JOB, fingerprint, table="metrics")
    costs = costs_now(ctx)
    if done is not None:
        if done.get("costs") != costs:  # what was measured anew changes no judgement
            done = {**done, "costs": costs}
            ctx.save_details(JOB, done, fingerprint=fingerprint)
        outputs = {name: ctx.catalog.ref(name) for name in ("predictions", "metrics")}
        return StageResult(inputs, outputs, metrics=_metrics(done), details=done, skipped=True)

    test = split_rows(ctx, samples.version, "test")
    rows, positives = _check_labels(ctx, test)
    ctx.progress.say(f"evaluate: {len(arms)} arms on {rows:,} test rows, {positives:,} of them positive")
    yardsticks, described = _yardsticks(ctx, samples)
    outputs = {"predictions": _predict(ctx, test, arms, yardsticks, fingerprint)}
    called = titles(ctx.config.arms)
    details = {
        "titles": [[arm.arm, called[arm.arm]] for arm in arms],  # a list: keys of details are sorted
        "recommended": recommended,
        "yardsticks": described,
        "rows": rows,
        "positives": positives,
        "margin": ctx.config.evaluation.margin,
        "confidence": ctx.config.evaluation.confidence,
        "bootstrap": ctx.config.evaluation.bootstrap,
        **_judge(
            ctx,
            outputs["predictions"].version,
            [*(arm.arm for arm in arms), *(one.name for one in yardsticks)],
            counts.clusters(test, ctx.config.dataset.group),
            rows,
        ),
    }
    split_by = ctx.load_details("encode").get("split", {}).get("by", "time")
    details["cautions"] = cautions(details, split_by=split_by)
    details["costs"] = costs
    outputs["metrics"] = _write_metrics(ctx, details, samples, fingerprint)
    ctx.save_details(JOB, details, fingerprint=fingerprint)
    return StageResult(inputs, outputs, metrics=_metrics(details), details=details)


def find_arms(ctx: Context) -> list[ArmModel]:
    """The current models of the configured arms, in the order in which people see them.

    The candidate has to be there; the others may not have been fitted yet.
    """
    arms = list(titles(ctx.config.arms))
    require_model(ctx.root, CANDIDATE if CANDIDATE in arms else arms[0])
    found = [saved for arm in arms if (saved := current_model(ctx.root, arm))]
    encoded, _ = encoder(ctx)
    for saved in found:
        check_encoder(saved, encoded)
    return [
        ArmModel(saved.arm, saved.path, hashlib.sha256(read_bytes(saved.path)).hexdigest()) for saved in found
    ]


def _check_labels(ctx: Context, test: DataFrame) -> tuple[int, int]:
    from pyspark.sql import functions as F

    found = test.agg(F.count("*"), F.sum("label")).first()
    assert found is not None
    rows, positives = int(found[0]), int(found[1] or 0)
    if positives in (0, rows):
        what = "no rows" if rows == 0 else f"{rows:,} rows, all with label {1 if positives else 0}"
        raise DataError(
            f"the test part of data set '{ctx.config.dataset.name}' has {what}; nothing can be ranked",
            remedy="move the split (dataset.split.test_fraction, test_from), or check the label definition",
        )
    return rows, positives


def _yardsticks(ctx: Context, samples: TableRef) -> tuple[list[Yardstick], list[dict[str, Any]]]:
    """The plain models that the arms have to beat, and what the report says of each."""
    most = ctx.config.evaluation.yardstick_rows
    if not most:
        return [], []
    from sie_spark.evaluation.yardsticks import fit_yardsticks  # scikit-learn: seconds to import

    _, spec = encoder(ctx)
    began = time.monotonic()
    found = fit_yardsticks(
        _bounded(ctx, samples, "train", most, spec),
        _bounded(ctx, samples, "validation", most // 3, spec),
        spec,
        seed=ctx.config.evaluation.seed,
        refit=ctx.config.training.refit,
    )
    seconds = time.monotonic() - began
    ctx.progress.say(f"evaluate: yardsticks fitted on {found[-1].rows:,} rows in {seconds:.1f}s")
    described = [
        {"name": one.name, "title": one.title, "rows": one.rows, "chosen": one.chosen} for one in found
    ]
    return found, described


def _bounded(ctx: Context, samples: TableRef, part: Part, limit: int, spec: InputSpec) -> Batch:
    """About ``limit`` rows of a part at most, each weighing 1 / sampling_rate, in the order of their ids."""
    from pyspark.sql import functions as F

    rows, _ = at_most(
        split_rows(ctx, samples.version, part), limit, seed=ctx.config.evaluation.seed, purpose="yardstick"
    )
    weight = (1 / F.col("sampling_rate").cast("double")).cast("float").alias("weight")
    table = rows.select(*spec.columns, "label", "sample_id", weight).toArrow()
    return Batch.from_arrow(table.sort_by("sample_id"), spec)


def _predict(
    ctx: Context, test: DataFrame, arms: list[ArmModel], yardsticks: list[Yardstick], fingerprint: str
) -> TableRef:
    """One pass over the test rows; the slice columns ride along."""
    from pyspark.sql.types import DoubleType, StringType, StructField, StructType

    categories = _sliced_categories(ctx)
    for name, (index, ids) in categories.items():
        test = test.withColumn(f"slice_{name}", counts.frequency_slice(ids, index))
    keep = (*KEEP, *(f"slice_{name}" for name in categories))
    # what Arrow hands back is nullable, and Spark compares that too
    fields = [StructField(name, test.schema[name].dataType) for name in keep]
    added = [
        StructField("arm", StringType()),
        StructField("logit", DoubleType()),
        StructField("p", DoubleType()),
    ]
    threads = max(1, int(ctx.spark.conf.get("spark.task.cpus", "1") or 1))
    function = PredictRows(tuple(arms), keep, threads=threads, yardsticks=tuple(yardsticks))
    predicted = test.drop("split", "event_ts").mapInArrow(function, StructType([*fields, *added]))
    with workers(
        "prediction",
        remedy="mend what the message names, run 'sie retrain', then 'sie evaluate'",
        otherwise="check that model and encoder fit: run 'sie retrain'",
    ):
        return ctx.catalog.replace(predicted, "predictions", fingerprint=fingerprint, job=JOB)


def _sliced_categories(ctx: Context) -> dict[str, tuple[int, int]]:
    """Name -> (place in ``cat``, number of ids) of the id features with a vocabulary ordered by frequency."""
    encoded = ctx.load_details("encode")
    categories: dict[str, int] = encoded.get("inputs", {}).get("categories", {})
    order = [entry["name"] for entry in encoded.get("features", []) if entry["name"] in categories]
    hashed = {entry["name"] for entry in encoded.get("features", []) if entry.get("hashed")}
    return {
        name: (order.index(name), int(categories[name]))
        for name in SLICED
        if name in order and name not in hashed
    }


def _judge(ctx: Context, version: int, arms: list[str], clusters: Clusters, rows: int) -> dict[str, Any]:
    """Point metrics, intervals, differences, curves and slices of one version of the predictions."""
    settings = ctx.config.evaluation
    predictions = ctx.catalog.read("predictions", version=version)
    edges = lay_bins(predictions, rows=rows)
    binned = add_bins(predictions, edges)
    found = counts.count_bins(binned, edges)
    groups = counts.group_auc(predictions)
    point = {arm: found[arm].point() for arm in arms}
    for arm, (value, number) in _group_auc(groups).items():
        point[arm] |= {"gauc": value, "gauc_groups": number}
    replicates: dict[tuple[str, str], NDArray[np.float64]] = {}
    if settings.bootstrap:
        ctx.progress.say(f"evaluate: {settings.bootstrap} bootstrap replicates, clustered by {clusters.unit}")
        by_row = predictions.withColumn("group_id", predictions["sample_id"])
        replicates = replicate_metrics(
            by_row if clusters.by_row else predictions,
            {arm: count.binning for arm, count in found.items()},
            {arm: count.coarse_curve() for arm, count in found.items()},
            replicates=settings.bootstrap,
            seed=settings.seed,
        )
        for (
            arm,
            count,
        ) in found.items():  # a replicate's bins are coarser: about the best estimate all the same
            replicates[arm, "auc"] += point[arm]["auc"] - count.coarse_auc()
        if not clusters.by_row:
            by_group = replicate_group_auc(groups, replicates=settings.bootstrap, seed=settings.seed)
            replicates |= {(arm, "gauc"): values for arm, values in by_group.items()}
    columns = [name for name in predictions.columns if name.startswith("slice_")]
    intervals = {
        f"{name}_{arm}": span
        for (arm, name), values in sorted(replicates.items())
        if (span := interval(values, settings.confidence))
    }
    return {
        "clusters": asdict(clusters),
        "arms": {
            arm: {name: _finite(value) for name, value in values.items()} for arm, values in point.items()
        },
        "intervals": {name: list(span) for name, span in intervals.items()},
        **{
            f"{name}_{end}": span[i]
            for name, span in intervals.items()
            for i, end in enumerate(("low", "high"))
        },
        "differences": differences(
            point, replicates, clusters, margin=settings.margin, confidence=settings.confidence
        ),
        "curves": {arm: found[arm].curve() for arm in arms},
        "slices": counts.slices(binned, columns),
    }


def differences(
    point: dict[str, dict[str, float]],
    replicates: dict[tuple[str, str], NDArray[np.float64]],
    clusters: Clusters,
    *,
    margin: float,
    confidence: float,
) -> list[dict[str, Any]]:
    """Paired AUC differences of the arms that are there, with interval and verdict at the margin.

    Where nothing can be concluded an entry has ``no_verdict``, a sentence that says why, and no ``verdict``.
    """
    compared = []
    for first, second in pairs([arm for arm, values in point.items() if "auc" in values]):
        bound = sum(point[arm]["auc_error_bound"] for arm in (first, second))
        entry: dict[str, Any] = {
            "name": f"{first} - {second}",
            "metric": "auc",
            "value": point[first]["auc"] - point[second]["auc"],
            "error_bound": bound,
        }
        if (first, "auc") in replicates and (second, "auc") in replicates:
            drawn = replicates[first, "auc"] - replicates[second, "auc"]
            span = interval(drawn, confidence)
            entry |= {"low": span[0], "high": span[1]} if span else {}
            reason = no_verdict(clusters, bound, margin)
            verdict = None if reason else tost(drawn, margin)
            entry |= {"no_verdict": reason} if reason else {}
            entry |= {"verdict": asdict(verdict)} if verdict else {}
        compared.append(entry)
    return compared


def no_verdict(clusters: Clusters, bound: float, margin: float) -> str:
    """Why an AUC difference allows no conclusion, or an empty text where it does."""
    if clusters.effective < LEAST_CLUSTERS:
        return (
            f"the {clusters.unit}s of the test rows carry as much as {clusters.effective:.1f} independent ones of"
            f" equal weight, and below {LEAST_CLUSTERS} the intervals are too narrow"
        )
    if bound > margin / 10:
        return f"binning may have moved the difference by {bound:.1g}, more than a tenth of the margin {margin:g}"
    return ""


def _group_auc(groups: DataFrame) -> dict[str, tuple[float, int]]:
    """arm -> mean AUC over groups, weighted by their rows, and the number of groups."""
    from pyspark.sql import functions as F

    top, bottom = F.sum(F.col("rows") * F.col("auc")), F.sum("rows")
    found = groups.groupBy("arm").agg(top / bottom, F.count(F.lit(1))).collect()  # one row an arm
    return {row[0]: (float(row[1]), int(row[2])) for row in found}


def _write_metrics(ctx: Context, details: dict[str, Any], samples: TableRef, fingerprint: str) -> TableRef:
    """One row an arm (or pair of arms) and metric."""
    rows: list[tuple[Any, ...]] = []
    for arm, values in details["arms"].items():
        for name in NAMES:
            if values.get(name) is not None:
                low, high = details["intervals"].get(f"{name}_{arm}", (None, None))
                rows.append((arm, name, values[name], low, high))
    for entry in details["differences"]:
        rows.append((entry["name"], "auc", entry["value"], entry.get("low"), entry.get("high")))
    run_columns = (samples.version, details["rows"], details["confidence"], fingerprint)
    schema = (
        "arm string, metric string, value double, low double, high double, "
        "samples_version bigint, test_rows bigint, confidence double, fingerprint string"
    )
    frame = ctx.spark.createDataFrame([(*row, *run_columns) for row in rows], schema).coalesce(1)
    return ctx.catalog.replace(frame, "metrics", fingerprint=fingerprint, job=JOB)


def _metrics(details: dict[str, Any]) -> dict[str, float]:
    return {
        f"{name}_{arm}": float(values[name])
        for name in REPORTED
        for arm, values in details.get("arms", {}).items()
        if values.get(name) is not None
    } | cost_metrics(details.get("costs", {}))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
