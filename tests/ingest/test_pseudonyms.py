"""Identifiers: hashed by HMAC before anything is written; the key and the names are nowhere to be found."""

import hashlib
import hmac
import json
import secrets
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.logs import START, event, rows, settings, write
from helpers.pseudonyms import KEY, expected_pseudonym
from sie_spark.impressions import impressions
from sie_spark.ingest import ingest
from sie_spark.ingest.canonical import canonicalise
from sie_spark.ingest.pseudonyms import ENVIRONMENT, load_key, pseudonym_of
from sie_spark.platform.errors import PlatformError
from sie_spark.platform.root import Root
from sie_spark.sources.read import read, snapshot


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
    assert kept["1"]["who"]["uid"] == kept["1"]["user_id"] == expected_pseudonym("Xanthippe")
    assert kept["1"]["who"]["device"] == "phone"
    assert kept["1"]["session_id"] == expected_pseudonym("sess-X")
    if format == "json":  # a field inside the inner one is hashed with all of it
        assert kept["2"]["who"] == expected_pseudonym("Xanthippe")
        assert set(kept["3"]["who"]) == {"uid", "device", "at"} and "phone" in kept["3"]["who"]["device"]
    else:
        assert kept["1"]["who"]["at"] == {"sid": expected_pseudonym("sess-X"), "page": 7}
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
    assert events["1"]["user_id"] == expected_pseudonym("Xanthippe")
    assert events["3"]["session_id"] == expected_pseudonym("sess-Diotima")
    record = json.loads(rows(ctx.catalog.read("quarantine"))[0]["record"])
    assert record["user"] == expected_pseudonym("Xanthippe") and record["price"] == "cheap"

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
