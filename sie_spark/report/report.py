"""Stage ``report``: one HTML file that stands alone, made of what the other stages left behind."""

from __future__ import annotations

import platform

from sie_spark import __version__
from sie_spark.platform.catalog import TABLES
from sie_spark.platform.context import Context
from sie_spark.platform.result import StageResult
from sie_spark.report.page import Facts, render
from sie_spark.report.summaries import importance

STAGES = ("simulate", "ingest", "impressions", "encode", "train", "score", "weigh", "retrain", "evaluate")
NAME = "report.html"


def run(ctx: Context) -> StageResult:
    """Write ``root/report.html``; stages that have not run are said to be missing, and nothing fails."""
    tables = {name: ctx.catalog.ref(name) for name in TABLES if ctx.catalog.exists(name)}
    facts = gather(ctx, [(name, ref.version, ref.rows) for name, ref in tables.items()])
    path = ctx.root.write_bytes(render(facts).encode(), NAME)
    artifacts = [path] if ctx.root.is_local else []
    return StageResult(inputs=tables, artifacts=artifacts, report=path)


def gather(ctx: Context, tables: list[tuple[str, int, int | None]]) -> Facts:
    """The details of every stage, the tables, and what identifies the run."""
    details = {name: found for name in STAGES if (found := ctx.load_details(name))}
    if ctx.config.dataset.source.path != ctx.root.path("raw"):
        details.pop("simulate", None)  # another log was simulated under this root once
    times = ctx.load_details("seconds")
    if times:
        details["seconds"] = {name: times[name] for name in STAGES if name in times}
    config = ctx.config
    made = [
        ("Configuration", config.fingerprint("dataset", "model", "training", "weighting", "evaluation")),
        ("Model", details.get("train", {}).get("search", {}).get("model", {}).get("name", config.model.name)),
        ("Seed", f"{config.training.seed} (fit), {config.weighting.seed} (draw)"),
        ("sie_spark", __version__),
        ("Spark", str(ctx.spark.version)),
        ("Python", platform.python_version()),
    ]
    return Facts(
        dataset=config.dataset.name,
        details=details,
        importance=importance(ctx),
        tables=tables,
        made=made,
    )
