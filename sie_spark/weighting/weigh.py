"""Stage ``weigh``: a filter with a projection over ``scores`` makes the training set of the subset arms."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sie_spark.platform.config.arms import CANDIDATE
from sie_spark.platform.config.stages import Importance
from sie_spark.platform.context import Context
from sie_spark.platform.draws import pilot_sample
from sie_spark.platform.errors import DataError, StageOrderError
from sie_spark.platform.result import StageResult
from sie_spark.weighting.arms import Arm, Plan, planned, solve_arms
from sie_spark.weighting.auto import depends_on, resolved
from sie_spark.weighting.examples import top_examples
from sie_spark.weighting.facts import (
    arm_facts,
    everything,
    fact_columns,
    fact_metrics,
    id_coverage,
    miscounted,
    read_columns,
)
from sie_spark.weighting.select import by_request, kept_rows, summary_columns
from sie_spark.weighting.solving_sample import solving_sample

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

CODE = ("sie_spark.weighting", "sie_spark.platform.draws", "sie_spark.platform.sampling_rate")


def run(ctx: Context) -> StageResult:
    """Write ``training_set``: the rows of every arm that keeps some."""
    plans = planned(ctx.config)
    source = ctx.catalog.ref("scores")
    fingerprint = ctx.fingerprint(
        "weigh", "weighting", "arms", "pilot", code=CODE, scores=source.content, budget=depends_on(ctx, plans)
    )
    inputs = {"scores": source}
    details = ctx.finished("weigh", fingerprint, table="training_set")
    if details is not None:
        table = ctx.catalog.ref("training_set")
        return StageResult(
            inputs, {"training_set": table}, metrics=_metrics(details), details=details, skipped=True
        )

    scores = ctx.catalog.read("scores", version=source.version)
    settings, rows = ctx.config.weighting, source.rows or 0
    _check_columns(scores.columns, plans)
    if settings.unit == "request":
        scores, plans = by_request(scores, plans)
    columns = {column for plan in plans for column in plan.columns}
    sample = solving_sample(scores, columns, rows=rows, seed=settings.seed, pilot=pilot_sample(ctx.config))
    plans, choice = resolved(ctx, plans, scores, sample, rows)
    began = time.monotonic()  # the trials of auto are timed apart, as the search for settings is
    arms = solve_arms(plans, sample)
    for arm in arms:
        if arm.note:
            ctx.progress.warn(arm.note)
    ref, found, read = _write(ctx, scores, arms, fingerprint)
    details = {
        **_details(arms, found, read, rows, settings=ctx.config.importance),
        "seconds": time.monotonic() - began,
    }
    details["auto"] = choice.as_dict() if choice else None
    empty = next((name for name, found in details["arms"].items() if not found["kept"]), None)
    if empty is not None:
        raise DataError(
            f"arm '{empty}': none of {rows:,} rows was kept, {details['arms'][empty]['expected']:.2g} were"
            " expected",
            remedy=f"raise weighting.budget or arms.{empty}.budget",
        )
    kept = ctx.catalog.read("training_set", version=ref.version)
    for name, ids in id_coverage(ctx, scores, kept, list(details["arms"]), settings.seed).items():
        details["arms"][name]["ids"] = ids
    details["top"] = top_examples(ctx, scores, f"score_{ctx.config.shown_score}")
    details["cautions"] = _cautions(details["arms"])
    details["encoder"] = ctx.load_details("score").get("encoder")
    ctx.save_details("weigh", details, fingerprint=fingerprint)
    return StageResult(inputs, {"training_set": ref}, metrics=_metrics(details), details=details)


def _check_columns(there: list[str], plans: list[Plan]) -> None:
    """Raise where the scores were made before an arm asked for one of them."""
    for plan in plans:
        lacking = ", ".join(sorted(name.removeprefix("score_") for name in plan.columns - set(there)))
        if lacking:
            raise StageOrderError(
                f"arm '{plan.name}' is drawn by '{lacking}', which table 'scores' does not have",
                remedy="run 'sie score' with the same settings: it adds what is missing",
            )


def _write(
    ctx: Context, scores: DataFrame, arms: list[Arm], fingerprint: str
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The table, and what was seen in the same pass of the kept rows and of all rows.

    Of an arm that keeps all rows nothing is written: it is fitted on ``samples``.
    """
    from pyspark.sql import Observation

    read, seen = Observation("weigh_read"), Observation("weigh")
    some = [arm for arm in arms if not arm.keeps_all]
    observed = scores.observe(read, *read_columns())
    frame = observed if some else scores.where("false")
    kept = kept_rows(frame, some or arms, seed=ctx.config.weighting.seed, pilot=pilot_sample(ctx.config))
    kept = kept.observe(seen, *summary_columns([arm.name for arm in arms]), *fact_columns(arms))
    # few, full files whose rows are in the order of a hash: the same in every run, and mixed already
    kept = kept.hint("rebalance", "arm", "split", "event_date")
    kept = kept.sortWithinPartitions("arm", "split", "event_date", "sample_id")
    ref = ctx.catalog.replace(kept, "training_set", fingerprint=fingerprint, job="weigh")
    if not some:
        counted = scores.agg(*read_columns()).first()
        return ref, {}, counted.asDict() if counted else {}
    if not ref.rows:
        return ref, {}, {}  # of no rows Spark observes nothing, not even zeros
    return ref, seen.get, read.get


def _details(
    arms: list[Arm], found: dict[str, Any], read: dict[str, Any], rows: int, *, settings: Importance
) -> dict[str, Any]:
    described = {}
    for arm in arms:
        counted = everything(arm.name, read) if arm.keeps_all else found
        kept = int(counted.get(f"{arm.name}:kept") or 0)
        weight, squares = (float(counted.get(f"{arm.name}:{name}") or 0) for name in ("weight", "squares"))
        positive = float(counted.get(f"{arm.name}:positive") or 0)
        described[arm.name] = {
            **arm.describe(),
            "rows": rows,
            "kept": kept,
            "kept_fraction": kept / rows if rows else 0.0,
            "expected": arm.expected_fraction * rows,
            "ess": weight**2 / squares if squares else 0.0,
            "positives": positive,
            "positive_share": positive / kept if kept else 0.0,
            "estimated_rows": float(counted.get(f"{arm.name}:inverse") or 0),
            **arm_facts(arm, counted, read, settings),
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
        if arm["misuse"]:
            said.append(f"Arm '{name}': {arm['misuse']}.")
        if arm["note"]:
            said.append(f"Arm '{name}': {arm['note']}.")
        if miscounted(arm):
            said.append(
                f"The kept rows of arm '{name}' stand for {arm['estimated_rows']:,.0f} rows by 1/pi, and there are"
                f" {arm['rows']:,}: more than chance explains. Look for rows that are in scores twice, or a policy of"
                " your own whose pi is not what it keeps by."
            )
        if arm["corrects_by"] == "offset":
            said.append(
                f"The log-odds offset of arm '{name}' is exact only for a well-specified model;"
                " compare weighting.policy=horvitz_thompson."
            )
    return said


def _metrics(details: dict[str, Any]) -> dict[str, float]:
    """Of the candidate in plain names; of every other arm its facts, with its name behind them."""
    auto = details.get("auto") or {}
    metrics = {f"auto_{word}": float(auto[word]) for word in ("share", "predicted_loss") if word in auto}
    for name, arm in details.get("arms", {}).items():
        if name != CANDIDATE:
            metrics[f"kept_rows_{name}"] = float(arm["kept"])
            metrics |= {f"{word}_{name}": value for word, value in fact_metrics(arm).items()}
            continue
        metrics |= {
            "kept_fraction": float(arm["kept_fraction"]),
            "kept_rows": float(arm["kept"]),
            "expected_rows": float(arm["expected"]),
            "ess": float(arm["ess"]),
            "positive_share": float(arm["positive_share"]),
            "biased": float(arm["biased"]),
            **fact_metrics(arm),
        }
    return metrics
