"""Stage ``weigh``: a filter with a projection over ``scores`` makes the training set of the subset arms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sie_spark.platform.config.arms import CANDIDATE
from sie_spark.platform.context import Context
from sie_spark.platform.draws import pilot_sample
from sie_spark.platform.errors import DataError
from sie_spark.platform.result import StageResult
from sie_spark.weighting.arms import Arm, planned, solve_arms
from sie_spark.weighting.examples import top_examples
from sie_spark.weighting.select import kept_rows, summary_columns
from sie_spark.weighting.solving_sample import solving_sample

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

CODE = ("sie_spark.weighting", "sie_spark.platform.draws", "sie_spark.platform.sampling_rate")


def run(ctx: Context) -> StageResult:
    """Write ``training_set``: the rows of every arm that keeps some."""
    plans = planned(ctx.config)
    source = ctx.catalog.ref("scores")
    fingerprint = ctx.fingerprint("weigh", "weighting", "arms", "pilot", code=CODE, scores=source.content)
    inputs = {"scores": source}
    details = ctx.finished("weigh", fingerprint, table="training_set")
    if details is not None:
        table = ctx.catalog.ref("training_set")
        return StageResult(
            inputs, {"training_set": table}, metrics=_metrics(details), details=details, skipped=True
        )

    scores = ctx.catalog.read("scores", version=source.version)
    settings = ctx.config.weighting
    columns = {column for plan in plans for column in plan.columns}
    sample = solving_sample(
        scores, columns, rows=source.rows or 0, seed=settings.seed, pilot=pilot_sample(ctx.config)
    )
    arms = solve_arms(plans, sample)
    for arm in arms:
        if arm.note:
            ctx.progress.warn(arm.note)
    ref, found = _write(ctx, scores, arms, fingerprint)
    details = _details(arms, found, source.rows or 0)
    empty = next((name for name, found in details["arms"].items() if not found["kept"]), None)
    if empty is not None:
        raise DataError(
            f"arm '{empty}': none of {source.rows:,} rows was kept, {details['arms'][empty]['expected']:.2g} were"
            " expected",
            remedy=f"raise weighting.budget or arms.{empty}.budget",
        )
    details["top"] = top_examples(ctx, scores, f"score_{ctx.config.shown_score}")
    details["cautions"] = _cautions(details["arms"])
    details["encoder"] = ctx.load_details("score").get("encoder")
    ctx.save_details("weigh", details, fingerprint=fingerprint)
    return StageResult(inputs, {"training_set": ref}, metrics=_metrics(details), details=details)


def _write(ctx: Context, scores: DataFrame, arms: list[Arm], fingerprint: str) -> tuple[Any, dict[str, Any]]:
    from pyspark.sql import Observation

    seen = Observation("weigh")
    kept = kept_rows(scores, arms, seed=ctx.config.weighting.seed, pilot=pilot_sample(ctx.config))
    kept = kept.observe(seen, *summary_columns([arm.name for arm in arms]))
    # few, full files whose rows are in the order of a hash: the same in every run, and mixed already
    kept = kept.hint("rebalance", "arm", "split", "event_date")
    kept = kept.sortWithinPartitions("arm", "split", "event_date", "sample_id")
    ref = ctx.catalog.replace(kept, "training_set", fingerprint=fingerprint, job="weigh")
    return ref, seen.get if ref.rows else {}  # of no rows Spark observes nothing, not even zeros


def _details(arms: list[Arm], found: dict[str, Any], rows: int) -> dict[str, Any]:
    described = {}
    for arm in arms:
        kept = int(found.get(f"{arm.name}:kept") or 0)
        weight, squares = (float(found.get(f"{arm.name}:{name}") or 0) for name in ("weight", "squares"))
        positive = float(found.get(f"{arm.name}:positive") or 0)
        described[arm.name] = {
            **arm.describe(),
            "rows": rows,
            "kept": kept,
            "kept_fraction": kept / rows if rows else 0.0,
            "expected": arm.expected_fraction * rows,
            "ess": weight**2 / squares if squares else 0.0,
            "positives": positive,
            "positive_share": positive / kept if kept else 0.0,
            "estimated_rows": float(found.get(f"{arm.name}:inverse") or 0),
        }
    return {"rows": rows, "arms": described}


def _cautions(arms: dict[str, dict[str, Any]]) -> list[str]:
    said = []
    for name, arm in arms.items():
        if arm["biased"]:
            said.append(
                f"Policy '{arm['policy']}' of arm '{name}' is biased: what it keeps or weighs depends on the score, and"
                f" nothing corrects for it. Measured: {arm['price']}."
            )
        if arm["note"]:
            said.append(f"Arm '{name}': {arm['note']}.")
        if arm["corrects_by"] == "offset":
            said.append(
                f"The log-odds offset of arm '{name}' is exact only for a well-specified model;"
                " compare weighting.policy=horvitz_thompson."
            )
    return said


def _metrics(details: dict[str, Any]) -> dict[str, float]:
    """Of the candidate in plain names; of every other arm the rows it kept."""
    metrics = {}
    for name, arm in details.get("arms", {}).items():
        if name != CANDIDATE:
            metrics[f"kept_rows_{name}"] = float(arm["kept"])
            continue
        metrics |= {
            "kept_fraction": float(arm["kept_fraction"]),
            "kept_rows": float(arm["kept"]),
            "expected_rows": float(arm["expected"]),
            "ess": float(arm["ess"]),
            "positive_share": float(arm["positive_share"]),
            "biased": float(arm["biased"]),
        }
    return metrics
