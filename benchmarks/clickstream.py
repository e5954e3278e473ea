"""The first half of the path against a plain Spark copy of the same JSON lines, and how it grows.

    python benchmarks/clickstream.py [--small 4000000] [--large 16000000] [--cores 2] [--memory 2g] [--runs 3]

Each size runs in a process of its own, in a warm session: a log of a million goes through everything first,
for HotSpot goes on compiling for that long. One JSON line a measure: measure, value, bar, holds, runs, note.
Bars: (ingest + impressions + encode) / (read + Delta write) <= 4; seconds a row, large / small <= 1.1; spilled
bytes a row, large / small <= 1.2; the large log ends within the heap; no Python UDF in any plan. Spill and
shuffle of every stage are printed too, and what the path would take if it did nothing but write: the plain copy,
which ingest cannot do without, and a copy of each table that comes out, from Parquet and without statistics.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

STAGES = ("ingest", "impressions", "encode")
COPIES = {f"copy of {table}": table for table in ("events", "impressions", "samples")}  # what they write
WARM = 1_000_000  # impressions of the log that nothing is measured on
PYTHON = re.compile(r"BatchEvalPython|ArrowEvalPython|MapInArrow|MapInPandas|FlatMapGroupsIn|PythonUDF")
# the trivago feature set, over the simulator's columns: ids, context, price in its list, session history
DATASET: dict[str, Any] = {
    "history": {"types": ["impression", "click", "purchase"], "session": True, "rates": []},
    "features": [
        {"column": "item_id", "kind": "category", "min_count": 10},
        {"column": "query_id", "kind": "category"},
        {"column": "category", "kind": "category"},
        {"column": "device", "kind": "category"},
        {"name": "place", "column": "position", "kind": "category"},
        {"column": "query_text", "kind": "text", "length": 10, "hash_size": 512},
        {"column": "position", "kind": "number", "transform": "log"},
        {"column": "price", "kind": "number", "transform": "log"},
        {"column": "price_ratio", "kind": "number", "transform": "log"},
        {"column": "price_rank", "kind": "number"},
        {"column": "list_size", "kind": "number"},
        *[
            {"column": f"hist_{name}", "kind": "number", "transform": "log"}
            for name in (
                "events",
                "impression",
                "click",
                "purchase",
                "seconds_since",
                "session_events",
                "list_events",
            )
        ],
        {"column": "hist_last_is_item", "kind": "number"},
        {"column": "hist_last_distance", "kind": "number"},
        {"column": "hist_list_share", "kind": "number"},
    ],
}


def measure(rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """One size, in this process: seconds, rows, bytes spilled and shuffled a stage."""
    import importlib

    from sie_spark.platform.config import Config, Session, load_config
    from sie_spark.platform.config.base import validate
    from sie_spark.platform.context import Context
    from sie_spark.platform.progress import Progress
    from sie_spark.platform.root import Root
    from sie_spark.platform.session import local_session
    from sie_spark.simulator import simulate

    folder = Path(tempfile.mkdtemp(prefix="clickstream-", dir=options.folder))
    log = folder / "eventlog"
    log.mkdir()
    conf = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": log.as_uri(),
        "spark.eventLog.rolling.enabled": "false",
        "spark.eventLog.compress": "false",
    }
    partitions = max(2 * options.cores, rows // 500_000)
    session = Session(cores=options.cores, memory=options.memory, shuffle_partitions=partitions, conf=conf)
    spark = local_session(session)
    windows: list[tuple[str, float, float]] = []

    def timed(name: str, action: Any) -> float:
        began = time.time()
        action()
        windows.append((name, began, time.time()))
        return windows[-1][2] - began

    def context(root: Path, raw: Path, number: int) -> Context:
        base = load_config(
            "simulated",
            overrides=[f"simulator.impressions={number}", "simulator.compression=none"],
            source=str(raw),
        ).model_dump()
        base["dataset"].update(DATASET)
        base["dataset"]["impressions"]["list_relative"] = ["price"]
        config = validate(Config, base, where="benchmark")
        return Context(config=config, root=Root(root), progress=Progress(quiet=True), session=spark)

    def plain(raw: Path, target: Path, ddl: str) -> None:
        shutil.rmtree(target, ignore_errors=True)
        spark.read.schema(ddl).json(str(raw)).write.format("delta").save(str(target))

    def copied(table: str, target: Path) -> None:
        writer = spark.read.format("delta").load(table).write.format("delta")
        writer.option("delta.dataSkippingNumIndexedCols", "0").save(str(target))

    try:
        seconds: dict[str, list[float]] = {name: [] for name in ("plain", *STAGES, *COPIES)}
        records = 0
        for number, runs, measured in ((WARM, 1, False), (rows, options.runs, True)):
            home = folder / f"home-{number}"
            simulated = simulate.run(context(home, home / "raw", number))
            records = int(simulated.metrics["records"])
            for run in range(runs):
                root = folder / f"root-{number}-{run}"
                ctx = context(root, home / "raw", number)
                ddl = str(ctx.config.dataset.source.columns)
                actions = {"plain": partial(plain, home / "raw", root / "copy", ddl)}
                for name in STAGES:
                    part = "features" if name == "encode" else name
                    actions[name] = partial(importlib.import_module(f"sie_spark.{part}.{name}").run, ctx)
                for name, table in COPIES.items():
                    actions[name] = partial(copied, ctx.catalog.path(table), root / name)
                for name, action in actions.items():
                    took = timed(name if measured else "warm", action)
                    if measured:
                        seconds[name].append(took)
                shutil.rmtree(root)
    finally:
        spark.stop()
    totals, python = from_event_log(log, windows)
    shutil.rmtree(folder)
    return {"records": records, "seconds": seconds, "bytes": totals, "python": python, "runs": options.runs}


def from_event_log(
    folder: Path, windows: list[tuple[str, float, float]]
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Bytes spilled and shuffled by the tasks of each stage, and Python operators seen in plans."""
    totals = {name: {"spilled": 0, "shuffled": 0} for name in (*STAGES, "plain")}
    python = set()
    for file in folder.rglob("*"):
        if not file.is_file():
            continue
        with file.open(encoding="utf-8") as stream:
            for line in stream:
                if "SparkListenerTaskEnd" in line[:60]:
                    event = json.loads(line)
                    metrics = event.get("Task Metrics") or {}
                    ended = event["Task Info"]["Finish Time"] / 1000
                    stage = next((name for name, begin, end in windows if begin <= ended <= end + 0.05), None)
                    if stage in totals:
                        totals[stage]["spilled"] += metrics.get("Disk Bytes Spilled", 0)
                        written = metrics.get("Shuffle Write Metrics", {})
                        totals[stage]["shuffled"] += written.get("Shuffle Bytes Written", 0)
                elif "SQLExecutionStart" in line[:120] or "SQLAdaptiveExecutionUpdate" in line[:120]:
                    python |= set(PYTHON.findall(line))
    return totals, sorted(python)


def say(measure: str, value: float | None, bar: float | None, runs: int, note: str) -> None:
    holds = None if bar is None or value is None else value <= bar
    shown = None if value is None or math.isinf(value) else round(value, 4)
    print(
        json.dumps(
            {"measure": measure, "value": shown, "bar": bar, "holds": holds, "runs": runs, "note": note}
        ),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", type=int, default=4_000_000, help="impressions of the small log")
    parser.add_argument("--large", type=int, default=16_000_000, help="impressions of the large log; 0: none")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--memory", default="2g", help="heap of the one JVM")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", help="where the logs and tables lie meanwhile")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options)))
        return

    results = {}
    for size in [size for size in (options.small, options.large) if size]:
        command = [sys.executable, __file__, "--one", str(size), "--cores", str(options.cores)]
        command += ["--memory", options.memory, "--runs", str(options.runs)]
        command += ["--folder", options.folder] if options.folder else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            say(f"{size} impressions end in {options.memory}", 1, 0, 1, f"exit status {done.returncode}")
            continue
        results[size] = found = json.loads(done.stdout.splitlines()[-1])
        say(f"{size} impressions end in {options.memory}", 0, 0, found["runs"], f"{found['records']} records")
        middle = {name: statistics.median(values) for name, values in found["seconds"].items()}
        whole = sum(middle[name] for name in STAGES)
        parts = ", ".join(f"{name} {middle[name]:.1f} s" for name in (*STAGES, "plain"))
        say(f"path / plain copy, {size}", whole / middle["plain"], 4.0, found["runs"], parts)
        floor = sum(middle[name] for name in ("plain", *COPIES))
        parts = ", ".join(f"{name} {middle[name]:.1f} s" for name in COPIES)
        say(f"writing alone / plain copy, {size}", floor / middle["plain"], None, found["runs"], parts)
        say(f"path / writing alone, {size}", whole / floor, None, found["runs"], "")
        for name, counted in found["bytes"].items():
            for kind, value in counted.items():
                say(
                    f"{name}: bytes {kind} a record, {size}",
                    value / found["records"] / found["runs"],
                    None,
                    found["runs"],
                    "",
                )
        note = ", ".join(found["python"]) or "none in any plan"
        say(f"Python operators, {size}", len(found["python"]), 0, 1, note)
    if len(results) == 2:
        small, large = results[options.small], results[options.large]
        a_row = [
            sum(statistics.median(found["seconds"][name]) for name in STAGES) / found["records"]
            for found in (small, large)
        ]
        say(
            "seconds a row, large / small",
            a_row[1] / a_row[0],
            1.1,
            options.runs,
            f"{a_row[0] * 1e6:.2f}, {a_row[1] * 1e6:.2f} us",
        )
        spill = [
            sum(counted["spilled"] for name, counted in found["bytes"].items() if name in STAGES)
            / found["records"]
            for found in (small, large)
        ]
        ratio = spill[1] / spill[0] if spill[0] else (1.0 if not spill[1] else float("inf"))
        say(
            "bytes spilled a row, large / small",
            ratio,
            1.2,
            options.runs,
            f"{spill[0]:.0f}, {spill[1]:.0f} bytes",
        )


if __name__ == "__main__":
    main()
