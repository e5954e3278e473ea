"""Logs as they come: folders that are columns, old clocks and encodings, names that are no words."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.logs import rows, write
from helpers.three_column_logs import config, view
from sie_spark.ingest import ingest
from sie_spark.ingest.pseudonyms import ENVIRONMENT
from sie_spark.platform.errors import ConfigError, SourceError
from sie_spark.upkeep import forget

pytestmark = pytest.mark.spark
KEY = "a key of tests, thirty-two letters or more"


def items(ctx) -> list[str]:
    return sorted(row["item_id"] for row in rows(ctx.catalog.read("events")))


def test_folders_are_columns_and_tell_equal_lines_apart(make_context, tmp_path: Path) -> None:
    for day in (1, 2):
        folder = tmp_path / "log" / f"dt=2024-03-0{day}"
        write(
            folder / "a.json", {"t": "05:00:01", "u": "u1", "i": "a"}, {"t": "05:00:02", "i": "b"}, '{"torn'
        )
        write(folder / "a.csv", "t,i", "05:00:01,a", "torn")
    time = {"event_time": {"expression": "concat(dt, ' ', t)"}}
    declared = {"format": "json", "columns": "dt STRING, t STRING, u STRING, i STRING"}
    for number, path in enumerate((tmp_path / "log", f"{tmp_path}/log/dt=*/*.json")):
        source = {**declared, "options": {"pathGlobFilter": "*.json"}}
        ctx = make_context(config(path, source=source, **time), root=tmp_path / f"json-{number}")
        found = ingest.run(ctx).rows
        assert found.as_dict() == {"read": 6, "kept": 4, "quarantined": 2, "duplicate": 0}
        assert {str(row["event_date"]) for row in rows(ctx.catalog.read("events"))} == {
            "2024-03-01",
            "2024-03-02",
        }
    source = {"format": "csv", "options": {"header": "true"}}
    ctx = make_context(
        config(f"{tmp_path}/log/*/a.csv", source=source, columns={"user_id": "'u'"}, **time),
        root=tmp_path / "csv",
    )
    assert ingest.run(ctx).rows.as_dict() == {"read": 4, "kept": 2, "quarantined": 2, "duplicate": 0}


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_a_folder_declared_as_text_is_what_is_written(make_context, tmp_path: Path, format: str) -> None:
    log, source = tmp_path / "log", {"format": format, "options": {"header": "true"}}
    for store, day in (("007", "05"), ("1e3", "06")):
        lines = [view(1)] if format == "json" else ["t,u,i", "2024-03-01T05:00:01,u1,a"]
        file = write(log / f"store={store}" / f"day={day}" / "part", *lines)
        if format == "parquet":
            pq.write_table(pa.Table.from_pylist([view(1)]), file)
    source["columns"] = "t STRING, u STRING, i STRING, store STRING, day INT"
    ctx = make_context(config(log, source=source, columns={"store": "store", "day": "day"}))
    ingest.run(ctx)
    found = rows(ctx.catalog.read("events").orderBy("day"))
    assert [(row["store"], row["day"]) for row in found] == [("007", 5), ("1e3", 6)]


def test_parquet_times_to_the_microsecond_and_nanoseconds(make_context, tmp_path: Path) -> None:
    first = 1_709_269_200_123_400_000  # 2024-03-01 05:00:00.1234 UTC
    whole = [first, first + 500_000, first + 900_000_000]

    def log(name: str, unit: str, zone: str | None, **more: object) -> Path:
        divisor = {"us": 1000, "ns": 1}[unit]
        times = pa.array([t // divisor for t in whole], pa.timestamp(unit, zone))
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"t": times, "u": ["u1"] * 3, "i": ["a"] * 3, **more}), path)
        return path

    for path in (
        log("micros", "us", "UTC"),
        log("nanos", "ns", "UTC"),
        log("naive", "ns", None, more=[1, 2, 3]),  # as pandas writes them
    ):
        naive = path.stem == "naive"
        declared = {"columns": "t TIMESTAMP_NTZ, u STRING, i STRING"} if naive else {}
        zone = {"time_zone": "Europe/Berlin"} if naive else {}
        ctx = make_context(config(path, source=declared, **zone), root=tmp_path / path.stem)
        assert ingest.run(ctx).rows.kept == 3, path
        held = ctx.catalog.read("events").selectExpr("unix_micros(event_ts) AS at").orderBy("at")
        shift = 3600_000_000 if naive else 0
        assert [row["at"] + shift for row in rows(held)] == [t // 1000 for t in whole]


def test_nanoseconds_in_some_of_the_files(make_context, tmp_path: Path, monkeypatch) -> None:
    """As where pandas was updated in the middle of a log, with nothing declared."""
    first = 1_709_269_200_123_456_000
    divisors = {"s": 10**9, "us": 1000, "ns": 1}

    def part(folder: str, name: str, unit: str, **more: object) -> None:
        columns: dict[str, object] = {"u": [name], "i": [name], **more}
        if unit != "text":
            columns["t"] = pa.array([first // divisors[unit]], pa.timestamp(unit, "UTC"))
        (tmp_path / folder).mkdir(exist_ok=True)
        pq.write_table(pa.table({"t": ["noon"], **columns}), tmp_path / folder / f"{name}.parquet")

    later = pa.array([first + 1000], pa.timestamp("ns"))
    for at, unit in enumerate(("us", "ns", "us")):
        part("log", f"f{at}", unit, **({"seen": later} if at else {}), **({"n": [7]} if at == 1 else {}))
    read: list[str] = []
    real = pq.read_schema
    monkeypatch.setattr(pq, "read_schema", lambda name, **more: read.append(name) or real(name, **more))
    chosen = {"columns": {"seen": "seen", "n": "n"}}
    ctx = make_context(config(tmp_path / "log", **chosen), root=tmp_path / "mixed")
    assert ingest.run(ctx).rows.as_dict() == {"read": 3, "kept": 3, "quarantined": 0, "duplicate": 0}
    assert sorted(Path(name).stem for name in read) == ["f0", "f1", "f2"]  # each footer once
    frame = ctx.catalog.read("events")
    assert dict(frame.dtypes)["seen"] == "timestamp_ntz"
    held = frame.selectExpr("item_id", "unix_micros(event_ts)", "date_format(seen, 'SSSSSS')", "n")
    micros = first // 1000
    assert sorted(map(tuple, held.collect())) == [
        ("f0", micros, None, None),
        ("f1", micros, "123457", 7),
        ("f2", micros, "123457", None),
    ]

    for name, unit in (("a", "s"), ("b", "us")):  # the first file has not the column that is in nanoseconds
        part("later", name, unit, **({"seen": later} if name == "b" else {}))
    ctx = make_context(config(tmp_path / "later", columns={"seen": "seen"}), root=tmp_path / "second")
    ingest.run(ctx)
    assert dict(ctx.catalog.read("events").dtypes)["seen"] == "timestamp_ntz"

    part("odd", "a", "ns")
    part("odd", "b", "text")
    with pytest.raises(
        SourceError, match=r"b\.parquet: column 't' is string, and in .*a\.parquet it is time"
    ):
        ingest.run(make_context(config(tmp_path / "odd"), root=tmp_path / "third"))
    for name, zone in (("a", None), ("b", "UTC")):  # both are in nanoseconds, of which one zone is known
        part("zones", name, "us", seen=pa.array([first], pa.timestamp("ns", zone)))
    with pytest.raises(SourceError, match=r"'seen' is timestamp, and in .* it is timestamp_ntz"):
        ingest.run(make_context(config(tmp_path / "zones"), root=tmp_path / "zoned"))
    stream = config(tmp_path / "log", source={"incremental": True})
    with pytest.raises(
        SourceError, match=r"f1\.parquet: column 't' is timestamp.ns.*f0.*timestamp.us"
    ) as error:
        ingest.run(make_context(stream, root=tmp_path / "fourth"))
    assert "source.incremental: false" in error.value.remedy


def test_undeclared_columns_tell_records_apart(make_context, tmp_path: Path) -> None:
    log = tmp_path / "log.parquet"
    pq.write_table(pa.table({**{k: [v] * 2 for k, v in view(1).items()}, "page": [1, 2]}), log)
    ctx = make_context(config(log, source={"columns": "t STRING, u STRING, i STRING"}))
    assert ingest.run(ctx).rows.kept == 2


def test_encoding_and_braces_in_strings(make_context, tmp_path: Path) -> None:
    texts = ["Hi {{first}} {{last}}\nbye", "Grüße {a} {b}", "C:\\x {a} {b}", 'say "x" } {']
    lines = [json.dumps(view(at, m=text), ensure_ascii=at % 2 == 0) for at, text in enumerate(texts)]
    log = write(tmp_path / "log.json", *[line.encode("latin-1") for line in lines])
    for name, columns in (
        ("declared", {"columns": "t STRING, u STRING, i STRING, m STRING"}),
        ("inferred", {}),
    ):
        source = {"format": "json", "options": {"encoding": "ISO-8859-1"}, **columns}
        ctx = make_context(config(log, source=source, columns={"m": "m"}), root=tmp_path / name)
        assert ingest.run(ctx).rows.kept == 4
        assert sorted(row["m"] for row in rows(ctx.catalog.read("events"))) == sorted(texts)
    utf16 = config(log, source={"format": "json", "columns": "t STRING", "options": {"encoding": "UTF-16"}})
    with pytest.raises(SourceError, match="UTF-16"):
        ingest.run(make_context(utf16, root=tmp_path / "utf16"))


def test_a_csv_that_was_read_otherwise_than_written_is_said(
    make_context, tmp_path: Path, monkeypatch
) -> None:
    lines = ["t,i,u", "2024-03-01T05:00:01,Müller,u1".encode("latin-1"), "2024-03-01T05:00:02,b,u1"]
    log = write(tmp_path / "log.csv", *lines, '2024-03-01T05:00:03,"a', 'b",u1')
    latin, broken = {"encoding": "ISO-8859-1"}, {"multiLine": "true"}
    for name, options, kept, found in (
        ("neither", {}, 2, ["U+FFFD", "multiLine"]),
        ("encoding", latin, 2, ["multiLine"]),
        ("both", {**latin, **broken}, 3, []),
    ):
        source = {"format": "csv", "options": {"header": "true", **options}}
        ctx = make_context(config(log, source=source), root=tmp_path / name)
        said: list[str] = []
        monkeypatch.setattr(ctx.progress, "warn", said.append)
        result = ingest.run(ctx)
        hints = [text for text in said if "source.options" in text]
        assert result.rows.kept == kept and len(hints) == len(found)
        assert all(word in text for word, text in zip(found, hints, strict=True))
        assert result.details["warnings"] == ({"text: U+FFFD": 1} if name == "neither" else {})
    twice = write(tmp_path / "twice.csv", "t,u,i,i", "2024-03-01T05:00:01,u1,a,b")
    source = {"format": "csv", "options": {"header": "true"}}
    with pytest.raises(SourceError, match="no column 'i'") as raised:
        ingest.run(make_context(config(twice, source=source), root=tmp_path / "twice"))
    assert "more than once" in raised.value.remedy and "i2, i3" in raised.value.remedy


def test_a_stream_reads_files_that_kept_an_old_time(make_context, tmp_path: Path) -> None:
    source = {"format": "json", "columns": "t STRING, u STRING, i STRING", "incremental": True}
    write(tmp_path / "log" / "b.json", view(1, i="new"))
    ctx = make_context(config(tmp_path / "log", source=source))
    ingest.run(ctx)
    copied = write(tmp_path / "log" / "a.json", view(2, i="old"))
    os.utime(copied, (1_700_000_000, 1_700_000_000))
    assert ingest.run(ctx).rows.kept == 1
    assert items(ctx) == ["new", "old"]


def test_a_delta_source_made_anew_is_another(make_context, tmp_path: Path, spark) -> None:
    ctx = make_context(config(tmp_path / "log", source={"format": "delta"}))
    for second, item in enumerate("ab"):
        shutil.rmtree(tmp_path / "log", ignore_errors=True)
        record = view(second, i=item)
        spark.createDataFrame([tuple(record.values())], list(record)).write.format("delta").save(
            str(tmp_path / "log")
        )
        assert ingest.run(ctx).rows.kept == 1
    assert items(ctx) == ["a", "b"]


def test_identifiers_below_names_that_are_no_words(make_context, tmp_path: Path, monkeypatch) -> None:
    """Raw names reach no table, and forgetting one takes no record of another."""
    monkeypatch.setenv(ENVIRONMENT, KEY)
    people = [
        view(at, u=None, **{"user-id": user, "place": place})
        for at, (user, place) in enumerate([("ann@x.org", "7"), ("7", "2"), ("bob@x.org", "2")])
    ]
    log = write(tmp_path / "log.json", *people, view(9, **{"user-id": "eve"}), '{"user-id": 12, "place": 3')
    rule = {"column": "place", "check": "set", "values": ["1"], "name": "odd place"}
    chosen = {"user_id": "`user-id`", "place": "place"}
    ctx = make_context(config(log, source={"format": "json"}, columns=chosen, rules=[rule]))
    assert ingest.run(ctx).rows.quarantined == 4
    text = json.dumps([row["record"] for row in rows(ctx.catalog.read("quarantine"))])
    assert "odd" not in text and "@" not in text and '\\"place\\":\\"7\\"' in text
    details = forget.run(ctx, user="7").details
    assert details["removed"] == {"quarantine": 1} and details["left_in_doubt"]["records"] == 1
    assert ctx.catalog.read("quarantine").count() == 3
    wrong = config(log, source={"format": "json"}, columns=chosen, identifiers=["user_id", "plaec"])
    with pytest.raises(ConfigError, match="dataset.identifiers: no canonical column 'plaec'"):
        ingest.run(make_context(wrong, root=tmp_path / "wrong"))


@pytest.mark.parametrize(
    ("columns", "rules", "said"),
    [
        ({"item_id": "explode(tags)"}, [], "dataset.columns.item_id.*GENERATOR"),
        ({"item_id": "max(i)"}, [], "dataset.columns.item_id.*(?i:group)"),
        (
            {"tags": "tags"},
            [{"column": "tags", "check": "range", "min": 0}],
            "rule 'tags:range'.*array<string>",
        ),
        (
            {},
            [{"column": "item_id", "check": "expression", "expression": "count(*) > 0"}],
            "rule 'item_id:expression'",
        ),
        ({"ctx": "ctx"}, [], "nested field's name.*user agent"),
    ],
)
def test_what_no_record_can_be_is_refused(make_context, tmp_path: Path, columns, rules, said) -> None:
    log = write(tmp_path / "log.json", view(1, tags=["a", "b"], ctx={"user agent": "x"}))
    with pytest.raises((ConfigError, SourceError), match=said):
        ingest.run(make_context(config(log, source={"format": "json"}, columns=columns, rules=rules)))


def test_files_that_cannot_be_read_as_one_say_why(make_context, tmp_path: Path) -> None:
    twice = write(tmp_path / "twice.json", view(1), '{"t": "2024-03-01", "i": "a", "i": "b"}')
    with pytest.raises(SourceError, match="twice.*`i`"):
        ingest.run(make_context(config(twice, source={"format": "json"})))
    (tmp_path / "parts").mkdir()
    for name, number in (("a", [1]), ("b", ["1"])):
        pq.write_table(
            pa.table({"t": ["2024-03-01"], "u": ["u"], "i": ["i"], "n": number}),
            tmp_path / "parts" / f"{name}.parquet",
        )
    with pytest.raises(SourceError, match="different types.*(BIGINT|STRING)"):
        ingest.run(make_context(config(tmp_path / "parts")))
    csv = write(
        tmp_path / "wide.csv", "t,u,i", "2024-03-01 00:00:00,u,a", "2024-03-01 00:00:01,u," + "," * 30_000
    )
    ctx = make_context(config(csv, source={"format": "csv", "options": {"header": "true"}}))
    assert ingest.run(ctx).rows.quarantined == 1


def test_rules_judge_decimals_by_value_and_local_times_as_times(make_context, tmp_path: Path, spark) -> None:
    record = ("'u1' AS u", "'a' AS i", "'2024-03-01' AS t")
    log = tmp_path / "log.parquet"
    spark.range(2).selectExpr(
        *record, "cast(1.5 + id AS decimal(18,4)) AS price", "timestamp_ntz'2024-03-01 00:00:00' AS seen"
    ).write.parquet(str(log))
    rules = [
        {"column": "price", "check": "set", "values": ["1.50"]},
        {"column": "seen", "check": "range", "min": 1_709_251_200, "max": 1_709_251_200},
        {"column": "seen", "check": "not_future"},
    ]
    ctx = make_context(config(log, columns={"price": "price", "seen": "seen"}, rules=rules))
    ingest.run(ctx)
    assert [row["reasons"] for row in rows(ctx.catalog.read("quarantine"))] == [["price:set"]]
