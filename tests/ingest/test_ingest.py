"""Ingest: every rule seen to fire, every row accounted for, everything exactly once."""

import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import pytest

from helpers.logs import DAY, START, event, rows, settings, write
from sie_spark.impressions import impressions
from sie_spark.ingest import ingest, refusals, staging
from sie_spark.platform import tables
from sie_spark.platform.errors import ConfigError, DataError, PlatformError, RowIdentityError, SourceError

pytestmark = pytest.mark.spark

RULES = [
    {"column": "user_id", "check": "required"},
    {"column": "price", "check": "range", "min": 0, "max": 100},
    {"column": "event_type", "check": "set", "values": ["view", "click"]},
    {"column": "item_id", "check": "regex", "pattern": "^i[0-9]+$"},
    {"column": "event_ts", "check": "not_future", "tolerance_hours": 1},
    {"column": "key", "check": "type", "type": "bigint", "severity": "warn"},
    {
        "column": "seq",
        "check": "expression",
        "name": "odd step",
        "expression": "seq % 2 = 1",
        "severity": "warn",
    },
]


def reasons(ctx) -> dict[str, list[str]]:
    held = rows(ctx.catalog.read("quarantine"))
    return {json.loads(row["record"])["id"]: sorted(row["reasons"]) for row in held if row["record"]}


def test_every_rule_fires_and_every_reason_is_kept(make_context, tmp_path: Path, spark) -> None:
    reference = tmp_path / "sessions"
    spark.createDataFrame([("s1",), ("s2",)], "name string").write.parquet(str(reference))
    rules = [*RULES, {"column": "session_id", "check": "reference", "table": str(reference), "key": "name"}]
    bad = [
        event("no-user", user=None),
        event("blank-user", user=" "),
        event("dear", price=100.5),
        event("nan", price="NaN"),
        event("odd-kind", kind="buy"),
        event("odd-item", item="x"),
        event("future", ts=4_000_000_000),
        event("unknown-session", session="s9"),
        event("text-price", price="cheap"),
        event("text-time", ts="yesterday"),
        event("huge-time", ts=9_000_000_000_000_000_000),
        event("old", ts=3),
        event("many", user=None, price=-1, kind="buy", item="x"),
    ]
    broken = [
        '{"id": "cut',
        "[1, 2]",
        "null",
        "",
        '{"id": "a"} {"id": "b"}',
        b'{"id": "\xff\xfe", "kind": "view"}',
    ]
    good = [event("1"), event("2", step=2), event("word", price=None), event("3", item="i2", user="ünï")]
    ctx = make_context(settings(write(tmp_path / "log.json", *good, *bad, *broken, event("1")), rules=rules))
    result = ingest.run(ctx)

    assert reasons(ctx) == {
        "no-user": ["user_id:required"],
        "blank-user": ["user_id:required"],
        "dear": ["price:range"],
        "nan": ["price:range"],
        "odd-kind": ["event_type:set"],
        "odd-item": ["item_id:regex"],
        "future": ["event_ts:not_future"],
        "unknown-session": ["session_id:reference"],
        "text-price": ["type:price"],
        "text-time": ["event_ts:required", "type:ts"],
        "huge-time": ["event_ts:required"],
        "old": ["event_ts:absurd"],
        "many": ["event_type:set", "item_id:regex", "price:range", "user_id:required"],
    }
    unparsed = {
        row["unparsed"] for row in rows(ctx.catalog.read("quarantine")) if row["unparsed"] is not None
    }
    assert len(unparsed) == len(broken)
    assert {line for line in broken if isinstance(line, str)} <= unparsed
    assert any(text.startswith("base64:") for text in unparsed)
    held = result.rows.as_dict()
    assert held == {"read": 24, "kept": 4, "quarantined": 19, "duplicate": 1}
    assert result.details["warnings"] == {"key:type": 14, "odd step": 1}
    assert result.details["reasons"]["unparsable"] == 6
    kept = {row["key"]: row for row in rows(ctx.catalog.read("events"))}
    assert set(kept) == {"1", "2", "3", "word"}
    assert kept["1"]["price"] == 1.5 and str(kept["1"]["event_date"]) == "2024-03-01"
    assert "ann" not in json.dumps([str(row) for row in kept.values()])


def test_the_same_again_writes_nothing_and_overlaps_add_only_what_is_new(
    make_context, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    write(log / "1.json", event("a"), event("b"), "broken")
    ctx = make_context(settings(log))
    first = ingest.run(ctx)
    again = ingest.run(ctx)
    assert again.skipped and again.rows == first.rows
    assert {n: r.version for n, r in again.outputs.items()} == {
        n: r.version for n, r in first.outputs.items()
    }

    # a later delivery repeats two rows, and brings a late event of the day before
    with gzip.open(log / "2.json.gz", "wt") as stream:
        for record in (event("b"), event("late", ts=START - 10), event("c", ts=START + DAY)):
            stream.write(json.dumps(record) + "\n")
        stream.write("broken\n")
    second = ingest.run(ctx)
    assert second.rows.as_dict() == {"read": 7, "kept": 2, "quarantined": 0, "duplicate": 5}
    dates = {row["key"]: str(row["event_date"]) for row in rows(ctx.catalog.read("events"))}
    assert dates == {"a": "2024-03-01", "b": "2024-03-01", "late": "2024-02-29", "c": "2024-03-02"}
    assert ctx.catalog.read("quarantine").count() == 1

    # the first delivery alone, by a glob: the same bytes as the first run
    only = make_context(settings(log / "1*.json"), root=Path(ctx.root.uri))
    third = ingest.run(only)
    assert third.skipped and third.rows == first.rows
    assert third.outputs["events"].version == second.outputs["events"].version


def test_an_id_sent_again_with_another_days_time(make_context, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    write(first / "1.json", event("a"), event("b"))
    late = START + 2 * DAY
    write(again / "1.json", event("a", ts=late), event("c", ts=late + DAY))
    ingest.run(make_context(settings(first), root=tmp_path / "root"))
    ctx = make_context(settings(again, dedup_days=2), root=tmp_path / "root")
    assert ingest.run(ctx).rows.as_dict() == {"read": 2, "kept": 1, "quarantined": 0, "duplicate": 1}
    held = {(row["key"], str(row["event_date"])) for row in rows(ctx.catalog.read("events"))}
    assert held == {("a", "2024-03-01"), ("b", "2024-03-01"), ("c", "2024-03-04")}


@pytest.mark.parametrize(("days", "stay"), [(0, [1, 2, 3, 4, 6]), (1, [1, 3, 6])])
def test_a_batch_of_many_dates_gives_what_each_date_gives(
    make_context, tmp_path: Path, days: int, stay: list[int]
) -> None:
    """Numbers that begin anew every day are other events, in one delivery as in several."""
    sent = [event("x", ts=START + day * DAY + second) for day in (5, 0, 3, 1, 2) for second in (0, 1)]
    log = write(tmp_path / "log.json", *sent, event("y"))
    whole = make_context(settings(log, dedup_days=days))
    result = ingest.run(whole).rows
    assert (result.read, result.kept) == (11, len(stay) + 1)
    dated = tmp_path / "dated"
    for day in (1, 2, 3, 4, 6):
        asked = {"run": {"date_from": f"2024-03-0{day}", "date_to": f"2024-03-0{day}"}}
        ingest.run(make_context(settings(log, dedup_days=days) | asked, root=dated))
    for root in (None, dated):
        ctx = make_context(settings(log, dedup_days=days), root=root)
        held = [row["event_date"].day for row in rows(ctx.catalog.read("events").where("key = 'x'"))]
        assert sorted(held) == stay
    # what else came of the old date does not widen the search
    late = write(tmp_path / "late.json", event("x", ts=START + 20 * DAY), event("z"), event("y"))
    assert ingest.run(make_context(settings(late, dedup_days=days))).rows.kept == 2


@pytest.mark.parametrize("ranges", [[(2, 2), (3, 4)], [(2, 3), (4, 4)]])
def test_ranges_of_dates_give_what_each_date_gives(
    make_context, tmp_path: Path, ranges: list[tuple[int, int]]
) -> None:
    """A date that the table knows already does not take the next one with it."""
    log = write(tmp_path / "log.json", *[event("x", ts=START + day * DAY) for day in (1, 2, 2, 3)], "torn")
    for first, last in ranges:
        asked = {"run": {"date_from": f"2024-03-0{first}", "date_to": f"2024-03-0{last}"}}
        ctx = make_context(settings(log, dedup_days=1) | asked)
        told = ingest.run(ctx).rows
        assert told.read == told.kept + told.quarantined + told.duplicate
    assert sorted(row["event_date"].day for row in rows(ctx.catalog.read("events"))) == [2, 4]
    assert ctx.catalog.read("quarantine").count() == 1


@pytest.mark.parametrize("moment", ["stage", "quarantine", "ledger"])
def test_killed_anywhere_and_run_again(make_context, tmp_path: Path, monkeypatch, moment: str) -> None:
    log = write(
        tmp_path / "log.json", event("a"), event("a"), event("b"), event("c", user=5, ts="x"), "broken"
    )
    ctx = make_context(settings(log))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "stage":
            patch.setattr(staging, "save_counts", die)
        elif moment == "quarantine":
            real, calls = tables.insert_new, []

            def second_dies(*args: object, **more: object) -> int:
                calls.append(1)
                return die() if len(calls) == 2 else real(*args, **more)

            patch.setattr(ingest, "insert_new", second_dies)
        else:
            patch.setattr(ingest, "_details", die)
        with pytest.raises(KeyboardInterrupt):
            ingest.run(ctx)
    result = ingest.run(ctx)
    assert result.rows.read == 5
    assert ctx.catalog.read("events").count() == 2
    assert ctx.catalog.read("quarantine").count() == 2
    assert not list(Path(ctx.root.path("_staging")).iterdir())


def test_a_row_lost_on_the_way_is_seen_before_anything_is_visible(
    make_context, tmp_path, monkeypatch
) -> None:
    ctx = make_context(settings(write(tmp_path / "log.json", event("a"), event("b"))))
    real = staging.staged
    monkeypatch.setattr(staging, "staged", lambda *args: real(*args).where("key <> 'b'"))
    with pytest.raises(RowIdentityError, match="nothing was made visible"):
        ingest.run(ctx)
    assert not ctx.catalog.exists("events")


def test_dates_back_fill(make_context, tmp_path: Path) -> None:
    log = write(tmp_path / "log.json", *[event(str(n), ts=START + n * DAY) for n in range(4)], "broken")
    one = settings(log) | {"run": {"date_from": "2024-03-02", "date_to": "2024-03-03"}}
    ctx = make_context(one)
    result = ingest.run(ctx)
    assert result.rows.as_dict() == {"read": 3, "kept": 2, "quarantined": 1, "duplicate": 0}
    assert result.details["outside_dates"] == 2
    whole = make_context(settings(log), root=Path(ctx.root.uri))
    assert ingest.run(whole).rows.as_dict() == {"read": 5, "kept": 2, "quarantined": 0, "duplicate": 3}
    # literal dates prune the MERGE: files of other dates are not opened, they may even be gone
    shutil.rmtree(Path(ctx.catalog.path("events")) / "event_date=2024-03-01")
    later = write(tmp_path / "later.json", event("later", ts=START + 3 * DAY), event("3", ts=START + 3 * DAY))
    held = ingest.run(make_context(settings(later), root=Path(ctx.root.uri))).rows
    assert held.as_dict() == {"read": 2, "kept": 1, "quarantined": 0, "duplicate": 1}


def test_commits_say_what_they_are_and_bad_rows_cannot_be_written(
    make_context, tmp_path: Path, spark
) -> None:
    ctx = make_context(settings(write(tmp_path / "log.json", event("a"))))
    ingest.run(ctx)
    history = rows(spark.sql(f"DESCRIBE HISTORY {ctx.catalog.sql_name('events')}"))
    stamp = json.loads(history[0]["userMetadata"])
    assert stamp["job"] == "ingest" and json.loads(stamp["dates"]) == ["2024-03-01"]
    assert all(json.loads(commit["userMetadata"])["job"] == "ingest" for commit in history)
    shown = {
        row["key"]: row["value"]
        for row in rows(spark.sql(f"SHOW TBLPROPERTIES {ctx.catalog.sql_name('events')}"))
    }
    assert (
        shown["delta.logRetentionDuration"]
        == shown["delta.deletedFileRetentionDuration"]
        == "interval 30 days"
    )
    bad = ctx.catalog.read("events").selectExpr("* EXCEPT (sampling_rate)", "2.0D AS sampling_rate")
    with pytest.raises(Exception, match=r"CHECK constraint|DELTA_VIOLATE_CONSTRAINT"):
        bad.write.format("delta").mode("append").save(ctx.catalog.path("events"))


def test_a_column_of_another_type_than_in_the_table(make_context, tmp_path: Path) -> None:
    def config(item: str, policy: str, *records: dict) -> dict:
        log = write(tmp_path / "log.json", *records)
        made = settings(log, source={"on_type_change": policy})
        made["dataset"]["columns"] = {**made["dataset"]["columns"], "price": item}
        return made

    ingest.run(make_context(config("price", "refuse", event("a"))))
    with pytest.raises(SourceError, match="column 'price' is string now and double in table events"):
        ingest.run(make_context(config("cast(price AS STRING)", "refuse", event("b"))))
    as_text = "if(key = 'd', 'dear', cast(price AS STRING))".replace("key", "id")
    ctx = make_context(config(as_text, "cast", event("c", price=2.5), event("d")))
    result = ingest.run(ctx)
    assert result.rows.as_dict() == {"read": 2, "kept": 1, "quarantined": 1, "duplicate": 0}
    assert result.details["reasons"] == {"type_change:price": 1}
    assert {row["key"]: row["price"] for row in rows(ctx.catalog.read("events"))} == {"a": 1.5, "c": 2.5}


class TestErrorsNameFileColumnAndRemedy:
    def fails(self, make_context, config: dict, match: str) -> None:
        with pytest.raises((SourceError, ConfigError), match=match) as caught:
            ingest.run(make_context(config))
        assert caught.value.remedy and "\n" not in str(caught.value)

    def test_no_file(self, make_context, tmp_path: Path) -> None:
        self.fails(make_context, settings(tmp_path / "none.json"), "none.json: no such file")

    def test_empty(self, make_context, tmp_path: Path) -> None:
        self.fails(make_context, settings(write(tmp_path / "empty.json")), "empty.json: holds no records")

    def test_not_parquet(self, make_context, tmp_path: Path) -> None:
        log = write(tmp_path / "log.parquet", "this is no parquet file")
        self.fails(
            make_context, settings(log, source={"format": "parquet"}), "log.parquet.*not a readable Parquet"
        )

    def test_not_json(self, make_context, tmp_path: Path) -> None:
        log = write(tmp_path / "log.json", *["a,b"] * 30)
        self.fails(
            make_context,
            settings(log),
            "every one of 30 records cannot be read.*'unparsable' 30 times, such as x,x",
        )

    def test_unknown_column(self, make_context, tmp_path: Path) -> None:
        config = settings(write(tmp_path / "log.json", event("a")))
        config["dataset"]["columns"]["item_id"] = "itemid"
        self.fails(make_context, config, "no column 'itemid', which dataset.columns.item_id needs")

    def test_bad_sql(self, make_context, tmp_path: Path) -> None:
        config = settings(write(tmp_path / "log.json", event("a")))
        config["dataset"]["columns"]["item_id"] = "upper(item"
        self.fails(make_context, config, "dataset.columns.item_id")

    @pytest.mark.parametrize(
        "rule",
        [
            {"check": "regex", "pattern": "a(b"},
            {"check": "type", "type": "nmber"},
            {"check": "expression", "expression": "item_id = "},
            {"check": "expression", "expression": "itemid = 'x'"},
        ],
    )
    def test_bad_rule(self, make_context, tmp_path: Path, rule: dict) -> None:
        config = settings(write(tmp_path / "log.json", event("a")), rules=[{"column": "item_id", **rule}])
        self.fails(make_context, config, f"rule 'item_id:{rule['check']}'.*is not valid")

    def test_bad_zone(self, make_context, tmp_path: Path) -> None:
        self.fails(make_context, settings(tmp_path / "log.json", time_zone="Mars"), "time_zone")

    def test_cut_gzip(self, make_context, tmp_path: Path) -> None:
        whole = gzip.compress(
            "\n".join(json.dumps(event(str(n), user=f"u{n * 7919}")) for n in range(5000)).encode()
        )
        (tmp_path / "log.json.gz").write_bytes(whole[: len(whole) // 2])
        self.fails(make_context, settings(tmp_path / "log.json.gz"), "log.json.gz.*cannot be read to its end")


def test_a_whole_delivery_with_a_new_column_is_quarantined_where_asked(make_context, tmp_path: Path) -> None:
    log = write(tmp_path / "log.json", *[event(str(n), color="red") for n in range(30)])
    ctx = make_context(settings(log, source={"on_new_column": "quarantine"}))
    assert ingest.run(ctx).rows.as_dict() == {"read": 30, "kept": 0, "quarantined": 30, "duplicate": 0}
    held = rows(ctx.catalog.read("quarantine"))
    assert {tuple(row["reasons"]) for row in held} == {("new_column:color",)}
    assert json.loads(held[0]["record"])["undeclared"] == {"color": "red"}
    with pytest.raises(DataError, match="table events holds no row"):
        impressions.run(ctx)


def test_a_column_of_nulls_is_there_and_one_that_never_came_is_not(make_context, tmp_path: Path) -> None:
    records = [event(str(n), price=None) for n in range(refusals.ENOUGH_ROWS)]
    log = write(tmp_path / "nulls.json", *records)
    ctx = make_context(settings(log, source={"on_new_column": "refuse"}))
    assert ingest.run(ctx).rows.kept == len(records)
    for record in records:
        del record["price"]
    log = write(tmp_path / "absent.json", *records)
    with pytest.raises(SourceError, match="declared column.* price are in none of its records"):
        ingest.run(make_context(settings(log), root=tmp_path / "other"))


def test_records_without_a_key_are_told_apart_by_all_they_hold(make_context, tmp_path: Path) -> None:
    log = write(tmp_path / "log.json", event(None, price=1.0), event(None, price=2.0), event(None, price=2.0))
    result = ingest.run(make_context(settings(log)))
    assert result.rows.as_dict() == {"read": 3, "kept": 2, "quarantined": 0, "duplicate": 1}


def test_ids_of_an_earlier_version_are_not_mixed_with_todays(make_context, tmp_path: Path) -> None:
    ctx = make_context(settings(write(tmp_path / "log.json", event("1")), event_key=[]))
    ingest.run(ctx)
    identity = json.loads(Path(ctx.root.path(*ingest.IDENTITY_FILE)).read_text())
    del identity["ids"]
    ctx.root.write_bytes(json.dumps(identity).encode(), *ingest.IDENTITY_FILE)
    with pytest.raises(ConfigError, match="made by an earlier version"):
        ingest.run(ctx)


def test_rules_see_times_and_dates(make_context, tmp_path: Path) -> None:
    rules = [
        {"column": "event_ts", "check": "expression", "expression": "event_ts >= TIMESTAMP'2024-03-02'"},
        {"column": "day", "check": "range", "min": START - DAY},
    ]
    columns = {**settings(tmp_path)["dataset"]["columns"], "day": "to_date(timestamp_seconds(ts))"}
    log = write(tmp_path / "log.json", event("1"), event("2", ts=START + DAY), event("3", ts=START - 9 * DAY))
    ctx = make_context(settings(log, rules=rules, columns=columns))
    ingest.run(ctx)
    assert reasons(ctx) == {"1": ["event_ts:expression"], "3": ["day:range", "event_ts:expression"]}


def test_one_data_set_and_one_key_a_root(make_context, tmp_path: Path, monkeypatch) -> None:
    log = write(tmp_path / "log.json", event("1"))
    ctx = make_context(settings(log))
    ingest.run(ctx)
    with pytest.raises(ConfigError, match="holds data set 'log', and this is 'other'"):
        ingest.run(make_context(settings(log, name="other")))
    with pytest.raises(ConfigError, match="not both"):
        both = {**settings(log, source={"incremental": True}), "run": {"date_from": "2024-03-01"}}
        ingest.run(make_context(both))
    write(tmp_path / "log.json", event("1"), event("2"))
    monkeypatch.setenv("SIE_PSEUDONYM_KEY", "another key")
    with pytest.raises(PlatformError, match="made with another pseudonym key"):
        ingest.run(make_context(settings(log)))


def test_tables_that_were_removed_are_filled_from_every_batch(make_context, tmp_path: Path) -> None:
    logs = [write(tmp_path / f"{name}.json", event(name)) for name in "ab"]
    for log in logs:
        ingest.run(make_context(settings(log)))
    shutil.rmtree(tmp_path / "root" / "tables")
    results = [ingest.run(make_context(settings(log))) for log in (*logs, *logs)]
    assert [result.skipped for result in results] == [False, False, True, True]
    assert make_context(settings(log)).catalog.read("events").count() == 2


def test_a_batch_that_fails_the_identity_is_staged_again(make_context, tmp_path: Path, monkeypatch) -> None:
    log = write(tmp_path / "log.json", event("1"), event("2"))
    found = staging.distinct_rows

    def more(ctx, fingerprint, counts, **asked):  # as when the source changes while it is read
        return found(ctx, fingerprint, dataclasses.replace(counts, read=3), **asked)

    with monkeypatch.context() as patch, pytest.raises(RowIdentityError, match="rows read 3"):
        patch.setattr(ingest, "distinct_rows", more)
        ingest.run(make_context(settings(log)))
    assert not [file for file in (tmp_path / "root" / "_staging").iterdir() if file.suffix == ".json"]
    assert ingest.run(make_context(settings(log))).rows.kept == 2


def test_a_root_is_claimed_by_what_it_holds(make_context, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        ingest.run(make_context(settings(tmp_path / "absent.json", name="mistyped")))
    ingest.run(make_context(settings(write(tmp_path / "log.json", event("1")))))


def test_a_row_without_a_type_is_rejected_whatever_the_kind(make_context, tmp_path: Path) -> None:
    """CHECK constraint has_type would fail the whole batch."""
    columns = {"event_type": "kind", "item_id": "item", "label": "price > 1", "key": "id"}
    log = write(tmp_path / "log.json", event("1"), event("2", kind=None))
    ctx = make_context(settings(log, kind="impressions", columns=columns))
    assert ingest.run(ctx).rows.as_dict() == {"read": 2, "kept": 1, "quarantined": 1, "duplicate": 0}
    assert reasons(ctx) == {"2": ["event_type:required"]}


def test_a_nested_column_of_another_type(make_context, tmp_path: Path) -> None:
    """Spark casts no text to an array: quarantine rejects the rows, and cast is refused by name."""

    def log(name: str, sql: str, policy: str) -> dict:
        file = write(tmp_path / f"{name}.json", event(name))
        mapping = {**settings(file)["dataset"]["columns"], "tags": sql}
        return settings(file, source={"on_type_change": policy}, columns=mapping)

    ingest.run(make_context(log("1", "array(price)", "refuse")))
    with pytest.raises(SourceError, match="'tags' is array<string> now and array<double>"):
        ingest.run(make_context(log("2", "array(item)", "cast")))
    ctx = make_context(log("3", "array(item)", "quarantine"))
    ingest.run(ctx)
    assert reasons(ctx) == {"3": ["type_change:tags"]}


def test_a_rule_on_a_time_that_nothing_maps_is_named(make_context, tmp_path: Path) -> None:
    log = write(tmp_path / "log.json", event("1"))
    table = {"kind": "tabular", "event_time": None, "event_key": [], "columns": {"label": "price > 1"}}
    rule = {"column": "event_ts", "check": "required"}
    with pytest.raises(ConfigError, match="rule 'event_ts:required': no canonical column 'event_ts'"):
        ingest.run(make_context(settings(log, **table, rules=[rule])))
