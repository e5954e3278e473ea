"""Are two roots the same? ``python benchmarks/same_tables.py OLD NEW``: what a refactoring must not change.

``events``, ``quarantine``, ``impressions`` and ``samples`` are compared row by row both ways; columns that only
one side has are named, not compared. Scores that both sides have are compared by sample, relative to their sd;
metrics of the last evaluation absolutely. Prints one JSON line a measure; exit status 1 where one does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sie_spark.platform.config import Session
from sie_spark.platform.root import Root
from sie_spark.platform.session import open_session

ROWS = ("events", "quarantine", "impressions", "samples")
CLOCK = {"quarantined_at", "extra"}  # a time of writing; a map, which Spark does not compare
RENAMED = {"logit_grad_norm": "score_logit_grad_norm"}  # old name: new name
NEGATED = {"score_margin"}  # in 0.6.0: higher = more important


def main() -> int:
    """Compare, print, and say whether all holds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old")
    parser.add_argument("new")
    options = parser.parse_args()
    spark = open_session(Session())  # type: ignore[call-arg]
    old, new = Root(options.old), Root(options.new)
    found = [same_rows(spark, old, new, name) for name in ROWS]
    found += same_scores(spark, old, new)
    found.append(same_metrics(old, new))
    for line in found:
        print(json.dumps(line))
    return 0 if all(line["holds"] for line in found) else 1


def said(measure: str, value: float, bar: float, note: str = "") -> dict[str, Any]:
    """A measure that must not exceed its bar."""
    return {"measure": measure, "value": value, "bar": bar, "holds": value <= bar, "runs": 1, "note": note}


def table(spark: SparkSession, root: Root, name: str) -> DataFrame:
    """A table under a root."""
    return spark.read.format("delta").load(root.path("tables", name))


def same_rows(spark: SparkSession, old: Root, new: Root, name: str) -> dict[str, Any]:
    """Rows that only one side has."""
    one, two = table(spark, old, name), table(spark, new, name)
    both = [column for column in one.columns if column in two.columns and column not in CLOCK]
    alone = sorted({*one.columns} ^ {*two.columns})
    left, right = one.select(*both), two.select(*both)
    differ = left.exceptAll(right).count() + right.exceptAll(left).count()
    note = f"{one.count()} and {two.count()} rows" + (
        f"; only on one side: {', '.join(alone)}" if alone else ""
    )
    return said(f"{name}: rows that differ", float(differ), 0.0, note)


def same_scores(spark: SparkSession, old: Root, new: Root) -> list[dict[str, Any]]:
    """Largest difference of each score, relative to the larger of its value and its sd."""
    one, two = table(spark, old, "scores"), table(spark, new, "scores")
    one = one.select(*[F.col(name).alias(RENAMED.get(name, name)) for name in one.columns])
    names = [
        name for name in one.columns if name in two.columns and (name == "p" or name.startswith("score_"))
    ]
    both = one.alias("a").join(two.alias("b"), "sample_id", "full")
    lines = []
    for name in names:
        sign = -1.0 if name in NEGATED else 1.0
        sd = one.agg(F.stddev_pop(name)).first()[0] or 1.0  # type: ignore[index]
        a, b = F.col(f"a.{name}") * sign, F.col(f"b.{name}")
        scale = F.greatest(F.abs(a), F.lit(sd))
        row = both.agg(F.max(F.abs(a - b) / scale), F.count(F.when(a.isNull() | b.isNull(), 1))).first()
        worst = float("inf") if row is None or row[1] else float(row[0] or 0.0)
        lines.append(said(f"scores: {name}, largest relative difference", worst, 1e-6))
    return lines


def same_metrics(old: Root, new: Root) -> dict[str, Any]:
    """Largest difference of a metric that both evaluations have."""
    one, two = (root.read_json("details", "evaluate.json")["arms"] for root in (old, new))
    gaps = {
        f"{name}_{arm}": abs(value - two[arm][name])
        for arm, values in one.items()
        for name, value in values.items()
        if value is not None and two.get(arm, {}).get(name) is not None
    }
    worst = max(gaps, key=lambda name: gaps[name])
    return said("metrics: largest difference", gaps[worst], 1e-6, f"{worst}; {len(gaps)} compared")


if __name__ == "__main__":
    sys.exit(main())
