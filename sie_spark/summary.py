"""The table at the end of a run: the arms side by side, with their intervals."""

from __future__ import annotations

from typing import Any

from sie_spark.evaluation.costs import in_a_line
from sie_spark.platform.config.arms import CANDIDATE
from sie_spark.platform.progress import Progress
from sie_spark.platform.result import StageResult

MEASURES = {"auc": ".4f", "ne": ".4f", "logloss": ".4f", "calibration": ".3f"}


def show(progress: Progress, result: StageResult, details: dict[str, Any]) -> None:
    """Print what a person wants to know first."""
    metrics = result.metrics
    intervals: dict[str, Any] = details.get("intervals", {})
    rows = []
    beside = [[one["name"], one["title"]] for one in details.get("yardsticks", [])]
    for arm, title in [*details.get("titles", []), *beside]:
        if f"auc_{arm}" not in metrics:
            continue
        cells = [title]
        for measure, form in MEASURES.items():
            value, span = metrics.get(f"{measure}_{arm}"), intervals.get(f"{measure}_{arm}")
            text = "-" if value is None else format(value, form)
            if span and span[0] < span[1] and measure == "auc":
                text += f" [{', '.join(f'{end:.4f}'.removeprefix('0') for end in span)}]"
            cells.append(text)
        rows.append(cells)
    kept = metrics.get("kept_fraction")
    title = "Test rows, never seen by any fit" + (
        f"; subset keeps {kept:.1%} of the training rows" if kept else ""
    )
    progress.table(title, ["trained on", "AUC [95 %]", "norm. entropy", "log-loss", "calibration"], rows)
    cost = details.get("costs", {}).get("arms", {}).get(CANDIDATE)
    if cost:
        progress.say(in_a_line(CANDIDATE, cost))
    for sentence in result.cautions:
        progress.warn(sentence)
    if result.rows is not None and result.rows.read:
        counts = result.rows
        progress.say(
            f"rows read {counts.read:,} = events {counts.kept:,} + quarantined {counts.quarantined:,}"
            f" + duplicates {counts.duplicate:,}"
        )
