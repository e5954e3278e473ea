"""Stage ``weigh``: a filter with a projection over ``scores`` makes the training set of the subset arms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sie_spark.importance.registry import SCORERS
from sie_spark.platform.config import Config
from sie_spark.platform.context import Context
from sie_spark.platform.errors import ConfigError, DataError
from sie_spark.platform.result import StageResult
from sie_spark.weighting.arms import Arm, plan_arms
from sie_spark.weighting.examples import top_examples
from sie_spark.weighting.registry import POLICIES
from sie_spark.weighting.select import kept_rows, summary_columns
from sie_spark.weighting.solving_sample import solving_sample

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def run(ctx: Context) -> StageResult:
    """Write ``training_set``: arm ``weighted`` and, where wanted, arm ``random``."""
    settings = ctx.config.weighting
    check_choices(ctx.config)
    source = ctx.catalog.ref("scores")
    fingerprint = ctx.fingerprint("weigh", "weighting", "arms.random", scores=source.content)
    inputs = {"scores": source}
    details = ctx.finished("weigh", fingerprint, table="training_set")
    if details is not None:
        table = ctx.catalog.ref("training_set")
        return StageResult(
            inputs, {"training_set": table}, metrics=_metrics(details), details=details, skipped=True
        )

    scores = ctx.catalog.read("scores", version=source.version)
    column = f"score_{settings.score}"
    sample = solving_sample(scores, column, rows=source.rows or 0, seed=settings.seed)
    arms = plan_arms(settings, sample, random=ctx.config.arms.random)
    for arm in arms:
        if arm.note:
            ctx.progress.warn(arm.note)
    ref, found = _write(ctx, scores, arms, column, fingerprint)
    details = _details(arms, found, source.rows or 0)
    if not details["arms"]["weighted"]["kept"]:
        raise DataError(
            f"none of {source.rows:,} rows was kept at a budget of {settings.budget}",
            remedy="raise weighting.budget",
        )
    details["top"] = top_examples(ctx, scores, column)
    details["cautions"] = _cautions(details["arms"]["weighted"])
    details["encoder"] = ctx.load_details("score").get("encoder")
    ctx.save_details("weigh", details, fingerprint=fingerprint)
    return StageResult(inputs, {"training_set": ref}, metrics=_metrics(details), details=details)


def check_choices(config: Config) -> None:
    """Raise :class:`ConfigError` for scorers and a policy that do not exist or do not fit together."""
    settings = config.weighting
    for name in (*config.importance.scorers, settings.score):
        SCORERS[name]  # an unknown name is refused
    chosen = POLICIES[settings.policy]
    if chosen.uses_score and settings.score not in config.importance.scorers:
        raise ConfigError(
            f"weighting.score is '{settings.score}', which importance.scorers does not compute",
            remedy=f"add '{settings.score}' to importance.scorers, or choose one of "
            f"{', '.join(config.importance.scorers)}",
        )


def _write(
    ctx: Context, scores: DataFrame, arms: list[Arm], column: str, fingerprint: str
) -> tuple[Any, dict[str, Any]]:
    from pyspark.sql import Observation

    seen = Observation("weigh")
    kept = kept_rows(scores, arms, column, seed=ctx.config.weighting.seed)
    kept = kept.observe(seen, *summary_columns([arm.name for arm in arms]))
    # few, full files whose rows are in the order of a hash: the same in every run, and mixed already
    kept = kept.hint("rebalance", "arm", "event_date").sortWithinPartitions("arm", "event_date", "sample_id")
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


def _cautions(weighted: dict[str, Any]) -> list[str]:
    said = []
    if weighted["biased"]:
        said.append(
            f"Policy '{weighted['policy']}' is biased: its weights depend on the label,"
            " and nothing corrects for it."
        )
    if weighted["note"]:
        said.append(weighted["note"][0].upper() + weighted["note"][1:] + ".")
    if weighted["corrects_by"] == "offset":
        said.append(
            "The log-odds offset is exact only for a well-specified model;"
            " compare weighting.policy=horvitz_thompson."
        )
    return said


def _metrics(details: dict[str, Any]) -> dict[str, float]:
    arms = details.get("arms", {})
    weighted = arms.get("weighted")
    if not weighted:
        return {}
    metrics = {
        "kept_fraction": float(weighted["kept_fraction"]),
        "kept_rows": float(weighted["kept"]),
        "expected_rows": float(weighted["expected"]),
        "ess": float(weighted["ess"]),
        "positive_share": float(weighted["positive_share"]),
        "biased": float(weighted["biased"]),
    }
    if "random" in arms:
        metrics["kept_rows_random"] = float(arms["random"]["kept"])
    return metrics
