"""What the report shows of the scores: fixed-size aggregates over ``scores`` and ``training_set``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sie_spark.platform.config.arms import CANDIDATE
from sie_spark.platform.context import Context

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

PER_DECADE = 8  # bins of a histogram, per factor of ten
FLOOR = 1e-12
POSITIONS = 20
JOB = "report"


def importance(ctx: Context) -> dict[str, Any]:
    """Histograms and shares of one version of the tables; kept, so that the next report reads nothing.

    Returns
    -------
    ``score`` (name), ``histogram`` (low, high, label, rows), ``positions`` (position, rows, clicks, share of
    the total score, kept rows), ``pi`` (low, high, rows, label); empty where the tables are missing.
    """
    catalog = ctx.catalog
    if not (catalog.exists("scores") and catalog.exists("training_set")):
        return {}
    versions = [catalog.version("scores"), catalog.version("training_set")]
    column = f"score_{ctx.config.shown_score}"
    known = ctx.load_details(JOB)
    if known.get("versions") == versions and known.get("score") == ctx.config.shown_score:
        return known
    scores = catalog.read("scores", version=versions[0])
    kept = catalog.read("training_set", version=versions[1]).where(f"arm = '{CANDIDATE}'")
    if column not in scores.columns:
        return {}
    found = {
        "score": ctx.config.shown_score,
        "versions": versions,
        "histogram": _histogram(scores, column),
        "pi": _histogram(kept, "pi"),
        "positions": _positions(scores, kept, column),
    }
    ctx.save_details(JOB, found)
    return found


def edges(index: int) -> tuple[float, float]:
    """The range of values in a bin of the logarithmic histogram."""
    return 10.0 ** (index / PER_DECADE), 10.0 ** ((index + 1) / PER_DECADE)


def _histogram(frame: DataFrame, column: str) -> list[dict[str, Any]]:
    from pyspark.sql import functions as F

    value = F.greatest(F.col(column).cast("double"), F.lit(FLOOR))
    # pi = 1 and the like sit exactly on an edge; the last digit of log10 must not decide
    index = F.floor(F.log10(value) * PER_DECADE + 1e-9)
    index = F.least(F.greatest(index, F.lit(-12 * PER_DECADE)), F.lit(12 * PER_DECADE))
    label = (F.col("label") > 0).cast("int")
    counted = frame.groupBy(index.alias("bin"), label.alias("label")).count().orderBy("bin", "label")
    rows = []
    for row in counted.collect():  # at most 24 decades of bins
        low, high = edges(int(row["bin"]))
        rows.append({"low": low, "high": high, "label": int(row["label"]), "rows": int(row["count"])})
    return rows


def _positions(scores: DataFrame, kept: DataFrame, column: str) -> list[dict[str, Any]]:
    from pyspark.sql import functions as F

    # least() passes over nulls: a row without a position would be far down the list
    known = F.when(F.col("position") >= 0, F.least("position", F.lit(POSITIONS + 1)))
    place: Column = known.alias("position")
    everything = scores.groupBy(place).agg(
        F.count("*").alias("rows"), F.sum("label").alias("clicks"), F.sum(column).alias("score")
    )
    chosen = {row[0]: int(row[1]) for row in kept.groupBy(place).count().collect()}
    rows = [row.asDict() for row in everything.orderBy("position").collect() if row["position"] is not None]
    total = math.fsum(float(row["score"] or 0) for row in rows) or 1.0
    return [
        {
            "position": int(row["position"]),
            "rows": int(row["rows"]),
            "clicks": float(row["clicks"] or 0),
            "share": float(row["score"] or 0) / total,
            "kept": chosen.get(row["position"], 0),
        }
        for row in rows
    ]
