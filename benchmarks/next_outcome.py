"""Clicks and purchases find their impressions: on one line, against a shuffle for each outcome.

    python benchmarks/next_outcome.py [--rows 400000] [--runs 3] [--cores 2] [--memory 2g]

One JSON line a measure: measure, value, bar, holds, runs, note. Both ways label the same synthetic impressions in one
session, in turn; a value is the median over runs of the ratio of the two. The named peer, :func:`one_by_one`, is
what the package did up to 0.6.0 where labels and history had no line in common: rows and the events of one outcome
are sorted together, then rows and those of the next. Both must give equal labels. Processor time of the tasks and
shuffled bytes come from Spark's own event log; wall time is printed too, and moves with what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from sie_spark.impressions.attribution import CLICK as CLICKED
from sie_spark.impressions.attribution import in_window, seconds_between
from sie_spark.impressions.timeline import BUY, CLICK, Outcomes, labelled
from sie_spark.platform.config import Attribution, Session
from sie_spark.platform.session import local_session

MATCH = ["user_id", "item_id"]
OUTCOMES: dict[str, Attribution] = {
    CLICK: Attribution(event="event_type = 'click'", match=MATCH, window_hours=1.0),
    BUY: Attribution(event="event_type = 'buy'", match=MATCH, window_hours=2.0),
}
CASES: dict[str, Outcomes] = {"click and purchase": OUTCOMES, "click alone": {CLICK: OUTCOMES[CLICK]}}
LABELS = ("impression_id", *CLICKED, "click", "conversion", "conversion_delay_s")
# 50 events a user in two hours on 10 items: 9 of 10 show an item. Times tie, numbers are missing, keys are too
EVENTS = """
    SELECT string(id) AS event_id,
           IF(hash(id, 1) % 100 = 0, NULL, concat('u', id DIV 50)) AS user_id,
           IF(hash(id, 2) % 100 = 0, NULL, concat('i', pmod(hash(id, 3), 10))) AS item_id,
           timestamp_seconds(1700000000 + 20 * pmod(hash(id, 4), 360)) AS event_ts,
           IF(hash(id, 5) % 3 = 0, NULL, bigint(pmod(hash(id, 6), 5))) AS seq,
           CASE WHEN pmod(hash(id, 7), 100) < 90 THEN 'shown'
                WHEN pmod(hash(id, 7), 100) < 98 THEN 'click' ELSE 'buy' END AS event_type,
           sha2(string(id), 256) AS payload
    FROM range({number})
"""


def one_by_one(rows: DataFrame, events: DataFrame, outcomes: Outcomes) -> DataFrame:
    """The peer: a shuffle for each outcome; only clicked rows are sorted with purchases."""
    found = _follow(rows, events, outcomes[CLICK], ("event_ts", "seq"), CLICKED)
    found = found.withColumn("click", F.col(CLICKED[0]).isNotNull().cast("int"))
    if BUY not in outcomes:
        return found.withColumn("conversion_delay_s", F.lit(None).cast("bigint"))
    bought = _follow(found.where("click = 1"), events, outcomes[BUY], CLICKED, ("_bought_ts", "_bought_seq"))
    both = bought.unionByName(found.where("click = 0"), allowMissingColumns=True)
    delay = seconds_between(F.col(CLICKED[0]), F.col("_bought_ts"))
    labels = {"conversion": F.col("_bought_ts").isNotNull().cast("int"), "conversion_delay_s": delay}
    return both.withColumns(labels).drop("_bought_ts", "_bought_seq")


def _follow(
    rows: DataFrame, events: DataFrame, settings: Attribution, at: tuple[str, str], result: tuple[str, str]
) -> DataFrame:
    """Rows and the events of one outcome sorted together: a row's outcome is what follows it directly."""
    keys = [f"_k_{name}" for name in settings.match]
    alone = F.concat(F.lit("\u0000"), "impression_id")
    left = rows.select(
        "*",
        *[F.coalesce(name, alone).alias(key) for name, key in zip(settings.match, keys, strict=True)],
        F.col(at[0]).alias("_at"),
        F.col(at[1]).alias("_nth"),
        F.lit(0).alias("_side"),
    )
    right = (
        events.where(settings.event)
        .dropna(subset=settings.match)
        .select(
            *[F.col(name).alias(key) for name, key in zip(settings.match, keys, strict=True)],
            F.col("event_ts").alias("_at"),
            F.col("seq").alias("_nth"),
            F.lit(1).alias("_side"),
        )
    )
    tie = F.desc("_side") if settings.strictly_later else F.asc("_side")
    order = Window.partitionBy(*keys).orderBy("_at", F.coalesce("_nth", F.lit(0)), tie, "impression_id")
    line = left.unionByName(right, allowMissingColumns=True)
    line = line.withColumn("_next", F.lead(F.struct("_side", "_at", "_nth")).over(order))
    near = (F.col("_next._side") == 1) & in_window(F.col("_at"), F.col("_next._at"), settings)
    moment = {
        name: F.when(near, F.col("_next")[part]) for name, part in zip(result, ("_at", "_nth"), strict=True)
    }
    return line.where("_side = 0").withColumns(moment).select(*rows.columns, *result)


WAYS: dict[str, Callable[[DataFrame, DataFrame, Outcomes], DataFrame]] = {
    "one line": labelled,
    "one by one": one_by_one,
}


def made(spark: SparkSession, number: int, folder: Path) -> tuple[DataFrame, DataFrame]:
    """Impressions and events, read from Parquet."""
    path = str(folder / "events")
    spark.sql(EVENTS.format(number=number)).write.parquet(path)
    events = spark.read.parquet(path)
    nothing = F.lit(None).cast("int")
    rows = events.where("event_type = 'shown'").withColumns(
        {"impression_id": F.col("event_id"), "click": nothing, "conversion": nothing}
    )
    return rows.drop("event_id", "event_type"), events


def timed(frame: DataFrame) -> tuple[float, float]:
    """Compute a frame; when that began and ended."""
    began = time.time()
    frame.write.format("noop").mode("overwrite").save()
    return began, time.time()


def differing(frame: DataFrame, other: DataFrame) -> tuple[int, int, int]:
    """Rows that only one side has, clicks and purchases."""
    # a missing number is 0 on the line, and stays missing in the peer; to what comes after both are one
    number = F.when(F.col("click") == 1, F.coalesce(CLICKED[1], F.lit(0)))
    one, two = (side.select(*LABELS).withColumn(CLICKED[1], number) for side in (frame, other))
    sums = one.agg(F.sum("click"), F.sum("conversion")).first()
    clicks, bought = (0, 0) if sums is None else (int(value or 0) for value in sums)
    return one.exceptAll(two).count() + two.exceptAll(one).count(), clicks, bought


def of_tasks(log: Path, windows: list[tuple[float, float]]) -> list[tuple[float, int]]:
    """Of each window the processor seconds and the shuffled bytes of the tasks that ended in it."""
    cpu, written = [0.0] * len(windows), [0] * len(windows)
    for file in filter(Path.is_file, log.rglob("*")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if "SparkListenerTaskEnd" not in line[:60]:
                continue
            event = json.loads(line)
            metrics, ended = event.get("Task Metrics") or {}, event["Task Info"]["Finish Time"] / 1000
            for index, (begin, end) in enumerate(windows):
                if begin <= ended <= end:
                    cpu[index] += metrics.get("Executor CPU Time", 0) / 1e9
                    written[index] += metrics.get("Shuffle Write Metrics", {}).get("Shuffle Bytes Written", 0)
    return list(zip(cpu, written, strict=True))


def say(measure: str, value: float, bar: float | None, runs: int, note: str) -> None:
    holds = None if bar is None else value <= bar
    line = {"measure": measure, "value": round(value, 4), "bar": bar, "holds": holds, "runs": runs}
    print(json.dumps({**line, "note": note}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=400_000, help="events; 9 of 10 are impressions")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--memory", default="2g")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="next-outcome-") as name:
        folder = Path(name)
        log = folder / "eventlog"
        log.mkdir()
        conf = {
            "spark.eventLog.enabled": "true",
            "spark.eventLog.dir": log.as_uri(),
            "spark.eventLog.rolling.enabled": "false",
            "spark.eventLog.compress": "false",
        }
        session = Session(
            cores=options.cores, memory=options.memory, shuffle_partitions=2 * options.cores, conf=conf
        )
        spark = local_session(session)
        windows: dict[str, dict[str, list[tuple[float, float]]]]
        windows = {case: {way: [] for way in WAYS} for case in CASES}
        try:
            rows, events = made(spark, options.rows, folder)
            for case, outcomes in CASES.items():
                frames = {way: label(rows, events, outcomes) for way, label in WAYS.items()}
                differ, clicks, bought = differing(*frames.values())
                note = f"{rows.count()} impressions, {clicks} clicks, {bought} purchases"
                say(f"rows that differ, {case}", differ, 0, 1, note)
                for run in range(options.runs + 1):
                    for way in sorted(WAYS, reverse=run % 2 == 0):
                        window = timed(frames[way])
                        if run:  # the first is for warming up
                            windows[case][way].append(window)
        finally:
            spark.stop()
        for case, ways in windows.items():
            tasks = {way: of_tasks(log, found) for way, found in ways.items()}
            measured = {
                "processor seconds": {way: [cpu for cpu, _ in found] for way, found in tasks.items()},
                "seconds": {way: [end - begin for begin, end in found] for way, found in ways.items()},
                "megabytes shuffled": {
                    way: [size / 1e6 for _, size in found] for way, found in tasks.items()
                },
            }
            for what, values in measured.items():
                ratio = statistics.median(ours / peer for ours, peer in zip(*values.values(), strict=True))
                middle = {way: statistics.median(found) for way, found in values.items()}
                note = ", ".join(f"{way} {value:.3g}" for way, value in middle.items())
                bar = 1.0 if what == "processor seconds" and len(CASES[case]) > 1 else None
                say(f"{what}, one line / one by one, {case}", ratio, bar, options.runs, note)


if __name__ == "__main__":
    main()
