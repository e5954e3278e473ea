"""A person who is forgotten is in no table, vocabulary or file any more, and what is in doubt is said."""

import json
import shutil
from pathlib import Path

import pytest

from helpers.encoders import current, keep
from helpers.logs import START, event, rows, settings, write
from helpers.pseudonyms import KEY, expected_pseudonym
from sie_spark.features.encoder import Encoder
from sie_spark.features.identifiers import Category
from sie_spark.features.vocabulary import Vocabulary
from sie_spark.impressions import impressions
from sie_spark.ingest import ingest
from sie_spark.ingest.pseudonyms import ENVIRONMENT
from sie_spark.platform.catalog import Catalog
from sie_spark.platform.errors import DataError, StageOrderError
from sie_spark.upkeep import forget


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
    people = Vocabulary(3, (expected_pseudonym("Diotima"), expected_pseudonym("Xanthippe")))
    encoder, _ = keep(Encoder((Category("user_id", "user_id", "string", people),)), ctx.root)

    ctx.root.write_bytes(b"rows", "artefacts", "row_sample-train-9", "made", "state.npz")
    result = forget.run(ctx, user="Xanthippe", at_once=True)
    assert not ctx.root.exists("artefacts")  # samples of rows, perhaps theirs
    counts = {"quarantine": 2, "daily_counts": 3}  # of their dates all: a value can be theirs alone
    assert result.details["removed"] == {"samples": 1, "impressions": 1, "events": 1, **counts}
    assert result.details["vocabularies"] == [encoder]
    held = current(ctx.root)
    assert held is not None and expected_pseudonym("Xanthippe") not in json.dumps(held.as_dict())
    assert [
        held.transform_row({"user_id": expected_pseudonym(n)})["cat"] for n in ("Diotima", "Xanthippe")
    ] == [[1], [0]]
    assert result.details["had_seen"] == {"training_sets": ["samples"], "models": {"reference": "abc"}}
    assert set(result.details["no_longer_rebuilt"]) == {"samples", "impressions", "events", "daily_counts"}
    kept = {"events": 1, "impressions": 1, "samples": 1, "quarantine": 1, "daily_counts": 0}
    for table, left in kept.items():
        frame = ctx.catalog.read(table)
        assert frame.count() == left == Catalog(spark, ctx.root).ref(table).rows
        listed = {Path(file.split(":", 1)[-1]).name for file in frame.inputFiles()}
        on_disk = {
            file.name
            for file in Path(ctx.catalog.path(table)).rglob("*.parquet")
            if "_delta_log" not in str(file)
        }
        assert on_disk == listed  # no older file holds them
        history = json.dumps(
            [str(row) for row in rows(spark.sql(f"DESCRIBE HISTORY {ctx.catalog.sql_name(table)}"))]
        )
        assert "Xanthippe" not in history and expected_pseudonym("Xanthippe") not in history
    # nothing else changed, and the next run does not bring them back
    assert ingest.run(ctx).skipped
    impressions.run(ctx)
    assert ctx.catalog.read("impressions").count() == 1
    assert {row["value"] for row in rows(ctx.catalog.read("daily_counts"))} == {
        "",
        expected_pseudonym("Diotima"),
    }
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
    people = Vocabulary(3, (expected_pseudonym("Diotima"), expected_pseudonym("Xanthippe")))
    keep(Encoder((Category("user_id", "user_id", "string", people),)), ctx.root)
    ctx.root.write_bytes(b"{}", "_staging", "abandoned.json")  # a batch that was never published
    landed = ctx.catalog.read("events").selectExpr(
        "event_id", "event_date", "user_id", "'' AS record", "'' AS unparsed"
    )
    landed = landed.write.format("delta").option("delta.dataSkippingNumIndexedCols", "0")
    landed.save(ctx.root.path("_staging", "landing-x"))
    begun = Path(ctx.root.path("_staging", "landing-y"))  # its first delivery was killed before the commit
    (begun / "_delta_log").mkdir(parents=True)
    (begun / "part-0.parquet").write_bytes(expected_pseudonym("Xanthippe").encode())
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
    held = current(ctx.root)
    assert held is not None and expected_pseudonym("Xanthippe") not in json.dumps(held.as_dict())
    files = [file for file in Path(ctx.root.uri).rglob("*") if file.is_file()]
    assert not [file for file in files if file.name == "abandoned.json"]
    for word in ("Xanthippe", expected_pseudonym("Xanthippe")):
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
