"""Identifiers: hashed by HMAC before anything is written; the key and the names are nowhere to be found."""

import hashlib
import hmac
import json
import secrets
import shutil
from pathlib import Path
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sie_spark.features.encoder import Encoder
from sie_spark.features.identifiers import Category
from sie_spark.features.vocabulary import Vocabulary
from sie_spark.impressions import impressions
from sie_spark.ingest import ingest
from sie_spark.ingest.canonical import canonicalise
from sie_spark.ingest.pseudonyms import ENVIRONMENT, load_key, pseudonym_of
from sie_spark.platform.catalog import Catalog
from sie_spark.platform.errors import DataError, PlatformError, StageOrderError
from sie_spark.platform.root import Root
from sie_spark.sources.read import read, snapshot
from sie_spark.upkeep import forget, maintain
from tests.clickstream.logs import START, event, rows, settings, write

KEY = "a-key-of-the-test-7f3a"


def oracle(value: str) -> str:
    return hmac.new(KEY.encode(), value.encode(), hashlib.sha256).hexdigest()[:32]


def test_the_key_of_a_root(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    said: list[str] = []
    root = Root(tmp_path)
    key = load_key(root, say=said.append)
    assert len(key) == 64 and load_key(root, say=said.append) == key and len(said) == 1
    assert (tmp_path / ".pseudonym_key").stat().st_mode & 0o777 == 0o600
    assert key.decode() not in said[0]
    monkeypatch.setenv(ENVIRONMENT, KEY)
    with pytest.raises(PlatformError, match="made with another pseudonym key"):
        load_key(root, say=said.append)
    assert load_key(Root(tmp_path / "new"), say=said.append) == KEY.encode() and len(said) == 1
    monkeypatch.delenv(ENVIRONMENT)
    with pytest.raises(PlatformError, match="no key for pseudonyms"):
        load_key(Root("s3://bucket/prefix"), say=said.append)


@pytest.mark.parametrize("key", [KEY, "k" * 64, "long" * 40])
def test_pseudonyms_are_hmac_sha256(key: str) -> None:
    by_library = hmac.new(key.encode(), "ünï".encode(), hashlib.sha256).hexdigest()[:32]
    assert pseudonym_of("ünï", key.encode()) == by_library


def everything_under(root: Path) -> bytes:
    texts = [file.read_bytes() for file in root.rglob("*") if file.is_file()]
    return b"\n".join(texts)


@pytest.mark.spark
@pytest.mark.parametrize("format", ["json", "parquet"])
def test_of_a_nested_field_only_the_identifier_is_hashed(
    make_context, tmp_path: Path, monkeypatch, format
) -> None:
    """A rejected record keeps what stands beside it."""
    monkeypatch.setenv(ENVIRONMENT, KEY)
    who = {"uid": "Xanthippe", "device": "phone", "at": {"sid": "sess-X", "page": 7}}
    records = [{"id": "1", "t": "2024-03-01", "who": who, "price": -1.0}]
    if format == "json":
        odd = {**who, "email": "x@y.z", "device": ["phone"]}  # not declared so
        records += [{**records[0], "id": "2", "who": "Xanthippe"}, {**records[0], "id": "3", "who": odd}]
        log = write(tmp_path / "log.json", *records)
    else:
        log = tmp_path / "log.parquet"
        pq.write_table(pa.Table.from_pylist(records), log)
    columns = {"event_ts": "t", "event_type": "'view'", "user_id": "who.uid", "session_id": "`who`.at.sid"}
    nested = "STRUCT<uid: STRING, device: STRING, at: STRUCT<sid: STRING, page: BIGINT>>"
    source = {"format": format, "columns": f"id STRING, t STRING, who {nested}, price DOUBLE"}
    rules = [{"column": "price", "check": "range", "min": 0}]
    config = settings(log, source=source, columns={**columns, "price": "price"}, event_key=[], rules=rules)
    config["dataset"].pop("event_time")
    ctx = make_context(config)
    assert ingest.run(ctx).rows.quarantined == len(records)
    kept = {
        row["id"]: row for row in (json.loads(one["record"]) for one in rows(ctx.catalog.read("quarantine")))
    }
    if format == "json":  # where nested fields are kept as their text
        kept["1"]["who"], kept["3"]["who"] = (json.loads(kept[id]["who"]) for id in ("1", "3"))
    assert kept["1"]["who"]["uid"] == kept["1"]["user_id"] == oracle("Xanthippe")
    assert kept["1"]["who"]["device"] == "phone"
    assert kept["1"]["session_id"] == oracle("sess-X")
    if format == "json":  # a field inside the inner one is hashed with all of it
        assert kept["2"]["who"] == oracle("Xanthippe")
        assert set(kept["3"]["who"]) == {"uid", "device", "at"} and "phone" in kept["3"]["who"]["device"]
    else:
        assert kept["1"]["who"]["at"] == {"sid": oracle("sess-X"), "page": 7}
    assert not any(name in json.dumps(list(kept.values())) for name in ("Xanthippe", "sess-X", "x@y.z"))


@pytest.mark.spark
def test_no_name_and_no_key_anywhere(make_context, tmp_path: Path, monkeypatch, spark) -> None:
    monkeypatch.setenv(ENVIRONMENT, KEY)
    # uncompressed, so that a search through bytes would find a name
    spark.conf.set("spark.sql.parquet.compression.codec", "uncompressed")
    log = write(
        tmp_path / "log.json",
        event("1", user="Xanthippe", session="sess-Xanthippe"),
        event("2", user="Xanthippe", session="sess-Xanthippe", price="cheap"),
        event("3", user="Diotima", session="sess-Diotima", ts=START + 60),
    )
    config = settings(log, impressions={"event": "event_type = 'view'"}, history={"types": ["view"]})
    ctx = make_context(config)
    try:
        ingest.run(ctx)
        impressions.run(ctx)
    finally:
        spark.conf.unset("spark.sql.parquet.compression.codec")
    bytes_ = everything_under(Path(ctx.root.uri))
    for secret in ("Xanthippe", "Diotima", KEY):
        assert secret.encode() not in bytes_
    events = {row["key"]: row for row in rows(ctx.catalog.read("events"))}
    assert events["1"]["user_id"] == oracle("Xanthippe")
    assert events["3"]["session_id"] == oracle("sess-Diotima")
    record = json.loads(rows(ctx.catalog.read("quarantine"))[0]["record"])
    assert record["user"] == oracle("Xanthippe") and record["price"] == "cheap"

    raw = read(spark, ctx.config.dataset.source, snapshot(spark, ctx.config.dataset.source))
    frame = canonicalise(raw, ctx.config.dataset, KEY.encode(), spark, existing={}, remake=lambda: "").frame
    frame.collect()  # the adaptive plan is final after it ran
    for mode in ("extended", "codegen", "formatted", "cost"):
        text = frame._explain_string(mode=mode) if hasattr(frame, "_explain_string") else plan(frame, mode)
        for secret in (KEY, KEY.encode().hex(), bytes(b ^ 0x36 for b in KEY.encode()).hex()):
            assert secret.lower() not in text.lower()
        assert "_sie_inner" in text or mode == "codegen"


def plan(frame, mode: str) -> str:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        frame.explain(mode=mode)
    return out.getvalue()


@pytest.mark.spark
def test_a_person_is_forgotten(make_context, tmp_path: Path, monkeypatch, spark) -> None:
    monkeypatch.setenv(ENVIRONMENT, KEY)
    log = write(
        tmp_path / "log.json",
        event("1", user="Xanthippe"),
        event("2", user="Xanthippe", price="cheap"),
        event("3", user="Diotima", ts=START + 60),
        '{"user": "Xanthippe", "torn',
        '{"user": "Xanthippes", "torn',
    )
    history = {"types": ["view"], "rates": ["user_id"]}
    ctx = make_context(settings(log, impressions={"event": "event_type = 'view'"}, history=history))
    ingest.run(ctx)
    impressions.run(ctx)
    # what later stages would have made
    ids = ctx.catalog.read("impressions").selectExpr("xxhash64(impression_id) AS sample_id", "event_date")
    ctx.catalog.replace(ids.selectExpr("*", "'train' AS split"), "samples", fingerprint="x", job="encode")
    ctx.root.write_bytes(b'{"fingerprint": "abc"}', "models", "reference", "current.json")
    people = Vocabulary(3, (oracle("Diotima"), oracle("Xanthippe")))
    encoder, _ = Encoder((Category("user_id", "user_id", "string", people),)).save(ctx.root)

    result = forget.run(ctx, user="Xanthippe", at_once=True)
    counts = {"quarantine": 2, "daily_counts": 3}  # of their dates all: a value can be theirs alone
    assert result.details["removed"] == {"samples": 1, "impressions": 1, "events": 1, **counts}
    assert result.details["vocabularies"] == [encoder]
    held = Encoder.current(ctx.root)
    assert held is not None and oracle("Xanthippe") not in json.dumps(held.as_dict())
    assert [held.transform_row({"user_id": oracle(n)})["cat"] for n in ("Diotima", "Xanthippe")] == [[1], [0]]
    assert result.details["had_seen"] == {"training_sets": ["samples"], "models": {"reference": "abc"}}
    assert set(result.details["no_longer_rebuilt"]) == {"samples", "impressions", "events", "daily_counts"}
    kept = {"events": 1, "impressions": 1, "samples": 1, "quarantine": 1, "daily_counts": 0}
    for table, left in kept.items():
        frame = ctx.catalog.read(table)
        assert frame.count() == left == Catalog(spark, ctx.root).ref(table).rows
        current = {Path(file.split(":", 1)[-1]).name for file in frame.inputFiles()}
        on_disk = {
            file.name
            for file in Path(ctx.catalog.path(table)).rglob("*.parquet")
            if "_delta_log" not in str(file)
        }
        assert on_disk == current  # no older file holds them
        history = json.dumps(
            [str(row) for row in rows(spark.sql(f"DESCRIBE HISTORY {ctx.catalog.sql_name(table)}"))]
        )
        assert "Xanthippe" not in history and oracle("Xanthippe") not in history
    # nothing else changed, and the next run does not bring them back
    assert ingest.run(ctx).skipped
    impressions.run(ctx)
    assert ctx.catalog.read("impressions").count() == 1
    assert {row["value"] for row in rows(ctx.catalog.read("daily_counts"))} == {"", oracle("Diotima")}
    with pytest.raises(DataError, match="no table holds rows of this user"):
        forget.run(ctx, user="Socrates")
    shutil.rmtree(ctx.catalog.path("impressions"))  # by hand: whose counts these are can no longer be told
    with pytest.raises(StageOrderError, match="'impressions' does not exist"):
        forget.run(ctx, user="Diotima")


@pytest.mark.spark
def test_forgetting_is_killed_and_goes_on(make_context, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, KEY)
    log = write(tmp_path / "log.json", event("1", user="Xanthippe"), event("2", user="Diotima"), "{Xanthippe")
    ctx = make_context(settings(log))
    ingest.run(ctx)
    people = Vocabulary(3, (oracle("Diotima"), oracle("Xanthippe")))
    Encoder((Category("user_id", "user_id", "string", people),)).save(ctx.root)
    ctx.root.write_bytes(b"{}", "_staging", "abandoned.json")  # a batch that was never published
    landed = ctx.catalog.read("events").selectExpr(
        "event_id", "event_date", "user_id", "'' AS record", "'' AS unparsed"
    )
    landed = landed.write.format("delta").option("delta.dataSkippingNumIndexedCols", "0")
    landed.save(ctx.root.path("_staging", "landing-x"))
    begun = Path(ctx.root.path("_staging", "landing-y"))  # its first delivery was killed before the commit
    (begun / "_delta_log").mkdir(parents=True)
    (begun / "part-0.parquet").write_bytes(oracle("Xanthippe").encode())
    with monkeypatch.context() as patch:
        patch.setattr(forget, "erase_value", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            forget.run(ctx, user="Xanthippe")
    assert ctx.catalog.read("events").count() == 1 and ctx.catalog.read("quarantine").count() == 0
    details = forget.run(ctx, user="Xanthippe", at_once=True).details  # goes on, and may be asked again
    assert details["removed"] == {"quarantine": 1, "events": 1}
    commits = ctx.spark.sql(f"DESCRIBE HISTORY {ctx.catalog.sql_name('events')}").where("operation = 'MERGE'")
    newest = commits.orderBy("version", ascending=False).first()
    assert "2024-03-01" in newest["operationParameters"]["predicate"]  # other dates are not looked at
    held = Encoder.current(ctx.root)
    assert held is not None and oracle("Xanthippe") not in json.dumps(held.as_dict())
    files = [file for file in Path(ctx.root.uri).rglob("*") if file.is_file()]
    assert not [file for file in files if file.name == "abandoned.json"]
    for word in ("Xanthippe", oracle("Xanthippe")):
        assert not [file for file in files if word.encode() in file.read_bytes()], word


@pytest.mark.spark
def test_a_name_in_another_field_is_counted_and_left(
    make_context, tmp_path: Path, monkeypatch, spark
) -> None:
    monkeypatch.setenv(ENVIRONMENT, KEY)
    log = write(
        tmp_path / "log.json",
        event("1", user="Xanthippe"),
        event("2", user=None, item="Xanthippe", price="cheap"),  # hers, or of an item of that name
        event("3", user="Diotima", item='Xan"thippe', price="cheap"),
        event("4", user="Diotima", item="Xanthippe's", price="cheap"),
        event("5", user="Xanthippe", item="Xanthippe", price="cheap"),
    )
    ctx = make_context(settings(log))
    ingest.run(ctx)
    for _ in range(2):  # asked again, she is known to be forgotten, and the record is still there
        details = forget.run(ctx, user="Xanthippe").details
        assert details["removed"] == {"quarantine": 1, "events": 1}
        assert details["left_in_doubt"]["records"] == 1
        assert ctx.catalog.read("quarantine").count() == 3
    with pytest.raises(DataError, match="no table holds .*; 1 rejected records hold this value") as error:
        forget.run(ctx, user='Xan"thippe')
    said = json.dumps(details) + str(error.value) + error.value.remedy
    assert "Xanthippe" not in said and 'Xan"thippe' not in said
    assert details["left_in_doubt"]["see"] in error.value.remedy
    see, remove = (
        details["left_in_doubt"][key].replace("THE IDENTIFIER", "Xanthippe") for key in ("see", "remove")
    )
    assert [json.loads(row["record"])["id"] for row in rows(spark.sql(see))] == ["2"]
    spark.sql(remove).collect()
    assert forget.run(ctx, user="Xanthippe").details["left_in_doubt"] == {}


@pytest.mark.spark
def test_upkeep_keeps_rows_and_lets_verbatim_text_go(make_context, tmp_path: Path, spark) -> None:
    ctx = make_context(settings(write(tmp_path / "log.json", event("1"), '{"torn'), unparsed_days=0))
    ingest.run(ctx)
    for _ in range(2):  # three small files of one date
        ctx.catalog.read("events").limit(1).write.format("delta").mode("append").save(
            ctx.catalog.path("events")
        )
    before = rows(ctx.catalog.read("events"))
    ctx.root.write_bytes(b"{}", "_staging", "abandoned.json")
    result = maintain.run(ctx)
    assert not ctx.root.entries("_staging")
    assert rows(ctx.catalog.read("events")) == before and len(before) == 3
    assert result.details["events"] == {"files_added": 1, "files_removed": 3}
    assert result.details["unparsed_texts_removed"] == 1
    held = rows(ctx.catalog.read("quarantine"))
    assert len(held) == 1 and held[0]["unparsed"] is None and held[0]["reasons"] == ["unparsable"]
    wrong = ctx.catalog.read("quarantine").selectExpr(
        "* EXCEPT (reasons)", "array()::array<string> AS reasons"
    )
    with pytest.raises(Exception, match=r"CHECK constraint|DELTA_VIOLATE_CONSTRAINT"):
        wrong.write.format("delta").mode("append").save(ctx.catalog.path("quarantine"))
    spark.sql(f"ALTER TABLE {ctx.catalog.sql_name('events')} DROP CONSTRAINT rate")
    with pytest.raises(DataError, match="lost delta.constraints.rate"):
        maintain.run(ctx)


@pytest.mark.spark
def test_text_that_landed_under_a_mapping_of_before_is_let_go(
    make_context, tmp_path: Path, monkeypatch, spark
) -> None:
    log = write(tmp_path / "log" / "1.json", event("1"), '{"torn').parent
    ctx = make_context(settings(log, source={"incremental": True}, unparsed_days=1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingest, "stage", Mock(side_effect=KeyboardInterrupt))
        ingest.run(ctx)
    ingest.run(make_context(settings(log, source={"incremental": True}, time_zone="Europe/Berlin")))
    landings = sorted((tmp_path / "root" / "_staging").glob("landing-*"))

    def texts() -> list[str | None]:
        files = [file for landing in landings for file in landing.glob("*.parquet")]
        return [text for file in files for text in pq.read_table(file)["unparsed"].to_pylist()]

    assert maintain.run(ctx).details["unparsed_texts_removed"] == 0  # a day is not over
    assert len(landings) == 2 and '{"torn' in texts()
    late = make_context(settings(log, source={"incremental": True}, unparsed_days=0))
    assert maintain.run(late).details["unparsed_texts_removed"] == 2  # one is in quarantine
    assert texts() == [None, None]


def test_a_killed_run_leaves_no_empty_key(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)

    def killed(_: int) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("secrets.token_hex", killed)
        load_key(Root(tmp_path), say=print)
    assert len(load_key(Root(tmp_path), say=print)) == 64


def test_of_two_runs_at_once_the_first_makes_the_key(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    ours, said = secrets.token_hex(32), list[str]()

    def meanwhile(_: int) -> str:
        monkeypatch.undo()
        (tmp_path / ".pseudonym_key").write_text(ours)
        return "theirs"

    monkeypatch.setattr("secrets.token_hex", meanwhile)
    assert load_key(Root(tmp_path), say=said.append) == ours.encode() and not said
    assert [file.name for file in tmp_path.glob(".pseudonym*")] == [".pseudonym_key"]
