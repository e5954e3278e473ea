"""The order of the stages, and what surrounds each: a child run, its table versions, its progress."""

from __future__ import annotations

import importlib
import time
from contextlib import ExitStack
from typing import Any

from sie_spark.platform.context import Context
from sie_spark.platform.result import StageResult, ordered_cautions
from sie_spark.platform.tracking import Tracker
from sie_spark.platform.workers import check_workers, is_local

STAGES: dict[str, str] = {
    "simulate": "sie_spark.simulator.simulate",
    "ingest": "sie_spark.ingest.ingest",
    "impressions": "sie_spark.impressions.impressions",
    "encode": "sie_spark.features.encode",
    "train": "sie_spark.training.train",
    "score": "sie_spark.importance.score",
    "weigh": "sie_spark.weighting.weigh",
    "retrain": "sie_spark.training.retrain",
    "evaluate": "sie_spark.evaluation.evaluate",
    "report": "sie_spark.report.report",
}


ON_DEMAND: dict[str, str] = {
    "export": "sie_spark.export.export",
    "explain": "sie_spark.explanation.explain",
}

UPKEEP: dict[str, str] = {
    "maintain": "sie_spark.upkeep.maintain",
    "forget": "sie_spark.upkeep.forget",
}


def run_stage(
    name: str, ctx: Context, tracker: Tracker, *, nested: bool = False, **arguments: Any
) -> tuple[StageResult, str]:
    """Run one stage inside its own MLflow run; returns the result and the run's id."""
    stage = importlib.import_module({**STAGES, **ON_DEMAND, **UPKEEP}[name])
    with tracker.run(name, ctx.config, nested=nested) as run_id, ctx.progress.step(name):
        began = time.monotonic()
        result: StageResult = stage.run(ctx, **arguments)
        if result.skipped:
            ctx.progress.say(f"{name}: up to date, nothing written")
        else:
            ctx.save_seconds(name, time.monotonic() - began)
        tracker.log(result)
    return result, run_id


def run_all(ctx: Context, tracker: Tracker, *, simulate: bool) -> tuple[StageResult, str]:
    """Every stage in order under one parent run; rows are those of ingest, metrics those of evaluate.

    Raises
    ------
    ConfigError, ModelError, PlatformError
        before any work, for a policy, a scorer or a model that does not exist, or a cluster whose workers lack
        what the stages need there.
    """
    from sie_spark.models.registry import check_model  # torch: a stage without it should not wait for it
    from sie_spark.weighting.arms import check_choices

    check_choices(ctx.config)
    check_model(ctx.config.model)
    if not is_local(ctx.spark):
        check_workers(ctx.spark)
    total, cautions = StageResult(skipped=True), dict[str, list[str]]()
    with ExitStack() as stack:
        run_id = stack.enter_context(tracker.run("run", ctx.config))
        for name in STAGES:
            if name == "simulate" and not simulate:
                continue
            result, _ = run_stage(name, ctx, tracker, nested=True)
            for table, ref in result.inputs.items():
                if table not in total.outputs:
                    total.inputs.setdefault(table, ref)
            total.outputs.update(result.outputs)
            total.metrics.update(result.metrics)
            cautions[name] = result.cautions
            total.skipped &= result.skipped or name == "report"
            total.report = result.report or total.report
            if name == "ingest":
                total.rows = result.rows
        total.details["cautions"] = ordered_cautions(cautions)
        tracker.log(StageResult(total.inputs, total.outputs, total.rows, total.metrics, total.details))
        if total.report and ctx.root.is_local:  # on an object store the page lies beside the tables
            tracker.log(StageResult(artifacts=[total.report]))
    return total, run_id
