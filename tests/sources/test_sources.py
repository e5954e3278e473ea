"""Sources: formats, drift, streams, and two runs at once."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.logs import COLUMNS, event, rows, settings, write
from sie_spark.ingest import ingest
from sie_spark.platform.config import Source
from sie_spark.platform.errors import SourceError
from sie_spark.sources import read as sources

pytestmark = pytest.mark.spark
CSV_COLUMNS = "id,kind,ts,user,session,item,price,step"


def line(record: dict) -> str:
    return ",".join("" if value is None else str(value) for value in record.values())


def kept(ctx) -> dict[str, dict]:
    return {row["key"]: row for row in rows(ctx.catalog.read("events"))}


def quarantined(ctx) -> dict[str, list[str]]:
    return {json.loads(row["record"])["id"]: row["reasons"] for row in rows(ctx.catalog.read("quarantine"))}


def test_csv_files_of_two_layouts_by_name_not_by_place(make_context, tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(
        log / "1.csv",
        CSV_COLUMNS,
        line(event("a", item='"i, ""x"""')),
        line(event("b", price="cheap")),
        "torn,row",
    )
    swapped = {
        name: event("c", price=7.5)[name] for name in ("price", *[n for n in event("c") if n != "price"])
    }
    write(log / "2.csv", ",".join(swapped), line(swapped))
    options = {"format": "csv", "options": {"header": "true"}}
    ctx = make_context(settings(log, source=options))
    assert ingest.run(ctx).rows.as_dict() == {"read": 4, "kept": 2, "quarantined": 2, "duplicate": 0}
    held = kept(ctx)
    assert held["a"]["price"] == 1.5 and held["c"]["price"] == 7.5
    assert held["a"]["item_id"] == 'i, "x"'
    torn = [row for row in rows(ctx.catalog.read("quarantine")) if row["reasons"] == ["unparsable"]]
    assert [row["unparsed"] for row in torn] == ["torn,row"]


@pytest.mark.parametrize("format", ["json", "csv", "parquet"])
class TestDrift:
    """A new column 'colour' and a missing column 'price', in each format and under each policy."""

    def log(self, tmp_path: Path, spark, format: str, records: list[dict]) -> Path:
        if format == "json":
            return write(tmp_path / "log.json", *records)
        if format == "csv":
            return write(tmp_path / "log.csv", ",".join(records[0]), *[line(record) for record in records])
        path = tmp_path / "log.parquet"
        fields = [f for f in COLUMNS.split(", ") if f.split()[0] in records[0]]
        extra = [f"{name} STRING" for name in records[0] if name not in event("x")]
        frame = spark.createDataFrame(
            [tuple(record.values()) for record in records], ", ".join([*fields, *extra])
        )
        frame.coalesce(1).write.mode("overwrite").parquet(str(path))
        return path

    def config(self, log: Path, format: str, **policies: str) -> dict:
        options = {"header": "true"} if format == "csv" else {}
        return settings(log, source={"format": format, "options": options, **policies})

    def test_new_column(self, make_context, tmp_path: Path, spark, format: str) -> None:
        log = self.log(tmp_path, spark, format, [event("a", colour="red"), event("b", colour="blue")])
        with pytest.raises(SourceError, match="new column.*colour"):
            ingest.run(
                make_context(self.config(log, format, on_new_column="refuse"), root=tmp_path / "refuse")
            )
        ctx = make_context(self.config(log, format, on_new_column="add"), root=tmp_path / "add")
        ingest.run(ctx)
        assert {key: row["extra"] for key, row in kept(ctx).items()} == {
            "a": {"colour": "red"},
            "b": {"colour": "blue"},
        }
        ctx = make_context(self.config(log, format, on_new_column="quarantine"), root=tmp_path / "quarantine")
        ingest.run(ctx)
        assert quarantined(ctx) == {"a": ["new_column:colour"], "b": ["new_column:colour"]}

    def test_missing_column(self, make_context, tmp_path: Path, spark, format: str) -> None:
        records = [event(f"e{n}") for n in range(120)]
        for record in records:
            del record["price"]
        log = self.log(tmp_path, spark, format, records)
        with pytest.raises(SourceError, match=r"column\(s\) price"):
            ingest.run(make_context(self.config(log, format), root=tmp_path / "refuse"))
        ctx = make_context(self.config(log, format, on_missing_column="null"), root=tmp_path / "null")
        assert ingest.run(ctx).rows.kept == 120


def test_each_layout_of_parquet_files_is_judged_by_itself(make_context, tmp_path: Path, spark) -> None:
    """A new column in one file, a missing one in another, a retyped one in a third: the others' rows are kept."""
    whole = event("a")
    new = {**event("b"), "colour": "red"}
    missing = {name: value for name, value in event("c").items() if name != "price"}
    retyped = {**event("d"), "price": "7.5"}
    words = {**event("e"), "price": "cheap"}
    for name, records in {"1": [whole], "2": [new], "3": [missing], "4": [retyped, words]}.items():
        table = pa.Table.from_pylist(records)
        at = table.column_names.index("step")
        table = table.set_column(at, "step", table["step"].cast(pa.int32()))
        (tmp_path / "log").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "log" / f"{name}.parquet")

    def config(policy: str) -> dict:
        missing_too = "null" if policy == "cast" else policy
        new_too = "add" if policy == "cast" else policy
        drift = {"on_type_change": policy, "on_new_column": new_too, "on_missing_column": missing_too}
        return settings(tmp_path / "log", source={"format": "parquet", **drift})

    with pytest.raises(SourceError, match=r"2\.parquet.*colour"):
        ingest.run(make_context(config("refuse"), root=tmp_path / "refuse"))
    ctx = make_context(config("quarantine"), root=tmp_path / "quarantine")
    assert ingest.run(ctx).rows.as_dict() == {"read": 5, "kept": 1, "quarantined": 4, "duplicate": 0}
    assert quarantined(ctx) == {
        "b": ["new_column:colour"],
        "c": ["missing_column:price"],
        "d": ["type_change:price"],
        "e": ["type_change:price"],
    }
    ctx = make_context(config("cast"), root=tmp_path / "cast")
    assert ingest.run(ctx).rows.as_dict() == {"read": 5, "kept": 4, "quarantined": 1, "duplicate": 0}
    held = kept(ctx)
    assert {key: row["price"] for key, row in held.items()} == {"a": 1.5, "b": 1.5, "c": None, "d": 7.5}
    assert held["b"]["extra"] == {"colour": "red"} and held["a"]["extra"] is None
    assert quarantined(ctx) == {"e": ["type:price"]}


def test_a_retyped_parquet_column(make_context, tmp_path: Path, spark) -> None:
    frame = spark.createDataFrame(
        [
            ("a", "view", 1709251200, "ann", "s", "i", "1.5", 1),
            ("b", "view", 1709251200, "ann", "s", "i", "x", 1),
        ],
        COLUMNS.replace("price DOUBLE", "price STRING"),
    )
    frame.coalesce(1).write.parquet(str(tmp_path / "log"))

    def config(policy: str) -> dict:
        return settings(tmp_path / "log", source={"format": "parquet", "on_type_change": policy})

    with pytest.raises(SourceError, match="column 'price' is string, declared double"):
        ingest.run(make_context(config("refuse")))
    ctx = make_context(config("cast"), root=tmp_path / "cast")
    ingest.run(ctx)
    assert kept(ctx)["a"]["price"] == 1.5 and quarantined(ctx) == {"b": ["type:price"]}


def test_delta_and_a_declared_sampling_rate(make_context, tmp_path: Path, spark) -> None:
    path = str(tmp_path / "delta")
    frame = spark.createDataFrame(
        [tuple(event(k, price=p).values()) for k, p in (("a", 0.5), ("b", 0.0))], COLUMNS
    )
    frame.write.format("delta").save(path)
    ctx = make_context(settings(tmp_path / "delta", source={"format": "delta"}, sampling_rate="price"))
    ingest.run(ctx)
    assert kept(ctx)["a"]["sampling_rate"] == 0.5
    assert quarantined(ctx) == {"b": ["sampling_rate:not in (0, 1]"]}
    assert ingest.run(ctx).skipped


def test_only_what_is_new(make_context, tmp_path: Path, monkeypatch) -> None:
    log = tmp_path / "log"
    write(log / "1.json", event("a"), "torn")
    ctx = make_context(settings(log, source={"incremental": True, "on_new_column": "refuse"}))
    assert ingest.run(ctx).rows.as_dict() == {"read": 2, "kept": 1, "quarantined": 1, "duplicate": 0}
    assert ingest.run(ctx).skipped
    write(log / "2.json", event("a"), event("b"))
    with monkeypatch.context() as patch:  # killed when they have landed and are not published
        patch.setattr(ingest, "stage", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ingest.run(ctx)
    assert set(kept(ctx)) == {"a"}
    assert ingest.run(ctx).rows.as_dict() == {"read": 2, "kept": 1, "quarantined": 0, "duplicate": 1}
    assert set(kept(ctx)) == {"a", "b"}
    write(log / "3.json", event("c") | {"extra_field": 1})
    for _ in range(2):  # still refused, and nothing of it is visible
        with pytest.raises(SourceError, match="a new column 'extra_field'"):
            ingest.run(ctx)
    assert set(kept(ctx)) == {"a", "b"} and ctx.catalog.read("quarantine").count() == 1


def test_what_a_killed_run_has_landed_fixes_no_types(make_context, tmp_path: Path, monkeypatch) -> None:
    """Before table events is there: the columns have other types now, and all is read again."""
    log = tmp_path / "log"
    config = settings(log, source={"incremental": True, "columns": None})
    write(log / "1.json", event("a", price=1))
    ctx = make_context(config)
    for moment in ("stage", "_publish"):
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(ingest, moment, lambda *_: 1 / 0)
            ingest.run(ctx)
    write(log / "2.json", event("b", price=2.5))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # killed once more, on the way
        patch.setattr(type(ctx.root), "remove", removed_once(type(ctx.root).remove))
        ingest.run(ctx)
    assert ingest.run(ctx).rows.as_dict() == {"read": 2, "kept": 2, "quarantined": 0, "duplicate": 0}
    assert {key: row["price"] for key, row in kept(ctx).items()} == {"a": 1.0, "b": 2.5}


def removed_once(real: Any) -> Any:
    def remove(self: Any, *parts: str) -> None:
        real(self, *parts)
        raise KeyboardInterrupt

    return remove


def test_two_overlapping_batches_at_once(make_context, tmp_path: Path, spark) -> None:
    """Without the lock of the command line: Delta's conflict detection and a retry keep each row once."""
    first = write(tmp_path / "1.json", *[event(str(n)) for n in range(30)], "torn")
    second = write(tmp_path / "2.json", *[event(str(n)) for n in range(10, 40)], "torn")
    seed = make_context(settings(write(tmp_path / "0.json", event("seed"), "seed torn")))
    ingest.run(seed)  # the tables exist
    root = Path(seed.root.uri)
    contexts = [
        replace(make_context(settings(log), root=root), session=spark.newSession()) for log in (first, second)
    ]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(ingest.run, contexts))
    assert sorted(kept(seed), key=str) == sorted(["seed", *map(str, range(40))])
    assert seed.catalog.read("events").count() == 41
    assert seed.catalog.read("quarantine").count() == 2
    assert sum(result.rows.kept for result in results) == 40
    assert all(r.rows.read == r.rows.kept + r.rows.quarantined + r.rows.duplicate for r in results)


@pytest.mark.slow
def test_a_killed_process_and_two_at_once(make_context, tmp_path: Path) -> None:
    """Two processes over one root at the same time: the first is killed while it stages, this one goes on."""
    log = write(tmp_path / "log.json", *[event(str(n)) for n in range(2000)], *["torn"] * 3)
    config = tmp_path / "log.yaml"
    config.write_text(json.dumps(settings(log)))
    root = tmp_path / "root"
    command = [sys.executable, "-m", "sie_spark.cli", "ingest", "--config", str(config), "--root", str(root)]
    command += ["--set", "session.cores=1", "--set", "session.memory=1g"]
    ctx = make_context(settings(log), root=root)
    said: list[str] = []
    with (tmp_path / "first.log").open("w") as progress:
        first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=progress, text=True)

    def kill() -> None:
        while first.poll() is None and not (said and list(root.glob("_staging/*/*"))):
            time.sleep(0.1)
        first.kill()

    while first.poll() is None and not list(root.glob("_staging/*")):
        time.sleep(0.1)  # it holds the lock and stages
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        with ctx.root.lock(say=said.append):  # as the command line does
            killed.result()
            assert first.wait() != 0 and list(root.glob("_staging/*/*"))
            result = ingest.run(ctx)
    assert said == [f"another job holds {root}; waiting for it"]
    assert result.outputs["events"].rows == ctx.catalog.read("events").count() == 2000
    assert result.outputs["quarantine"].rows == ctx.catalog.read("quarantine").count() == 1


def test_a_mode_that_loses_records_is_refused() -> None:
    lossy = Source(path="log.csv", format="csv", options={"Mode": "DROPMALFORMED"})
    with pytest.raises(SourceError, match="DROPMALFORMED loses records"):
        sources.read(None, lossy, sources.Snapshot(1, 1, ""))
