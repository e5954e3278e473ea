"""``report.key``: columns of impressions ride along as text, and no encoder changes by it."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from helpers.impressions_table import FEATURES, START, settings, store
from helpers.impressions_table import rows as impressions_rows
from helpers.logs import START as BEGIN
from helpers.logs import event, rows, write
from helpers.logs import settings as log_settings
from helpers.pseudonyms import KEY, expected_pseudonym
from sie_spark.export.folder import NOTED
from sie_spark.features import encode
from sie_spark.features.hashing import xxhash64
from sie_spark.impressions import impressions
from sie_spark.ingest import ingest
from sie_spark.ingest.pseudonyms import ENVIRONMENT
from sie_spark.platform.errors import ConfigError
from sie_spark.upkeep import forget

pytestmark = pytest.mark.spark
PLAIN = [feature for feature in FEATURES if feature["kind"] in ("category", "number")]


def asking(*keys: str, **run: Any) -> dict[str, Any]:
    return {**settings(features=PLAIN), "report": {"key": list(keys)}, "run": run}


def keys_of(ctx: Any) -> dict[int, dict[str, Any]]:
    names = [name for name in ctx.catalog.read("samples").columns if name.startswith("key_")]
    found = ctx.catalog.read("samples").select("sample_id", *names).collect()
    return {row["sample_id"]: {name: row[name] for name in names} for row in found}


def test_another_key_makes_samples_anew_by_the_same_encoder(make_context: Any) -> None:
    without = make_context(asking())
    store(without, impressions_rows(80))
    first = encode.run(without).details
    assert set(map(len, keys_of(without).values())) == {0}

    ctx = make_context(asking("item_id", "position"))
    result = encode.run(ctx)
    assert not result.skipped and result.details["encoder"] == first["encoder"]
    held = keys_of(ctx)
    for row in impressions_rows(80):
        carried = {"key_item_id": row["item_id"], "key_position": str(row["position"])}
        assert held[xxhash64(row["impression_id"].encode())] == carried
    assert encode.run(ctx).skipped

    # of one date only: a table cannot have a column in a part of its rows, so all are written, by that encoder
    day = str((START + dt.timedelta(days=3)).date())
    store(without, [*impressions_rows(80), {**impressions_rows(80)[-1], "impression_id": "late"}])
    dated = make_context(asking("position", date_from=day, date_to=day))
    again = encode.run(dated)
    assert again.details["encoder"] == first["encoder"] and again.rows.read == 81
    assert {tuple(keys) for keys in keys_of(dated).values()} == {("key_position",)} and len(
        keys_of(dated)
    ) == 81
    details = ctx.load_details("encode")
    assert sum(sum(part.values()) for part in details["labels"].values()) == 81
    assert encode.run(dated).rows.read == 21  # the same key as the table's: that date alone, as ever
    assert encode.run(dated).skipped and len(keys_of(dated)) == 81


def test_a_column_that_is_not_there_is_refused(make_context: Any) -> None:
    ctx = make_context(asking("item_id", "itm"))
    store(ctx, impressions_rows(40))
    with pytest.raises(ConfigError, match="no column 'itm'$") as error:
        encode.run(ctx)
    assert "item_id" in error.value.remedy and not ctx.catalog.exists("samples")
    with pytest.raises(ConfigError, match="taken there"):  # a feature cannot have such a name
        make_context(settings(features=[{"column": "tags", "kind": "bag", "name": "key_tags", "length": 2}]))


def test_identifiers_are_pseudonyms_and_a_person_is_forgotten(
    make_context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, KEY)
    people = ["Xanthippe", "Diotima", "Aspasia"]
    shown = [
        event(str(at), user=people[at % 3], session=f"s{at}", ts=BEGIN + 600 * at, item=f"i{at % 4}")
        for at in range(30)
    ]
    clicks = [
        {**shown[at], "id": f"c{at}", "kind": "click", "ts": shown[at]["ts"] + 5} for at in range(0, 30, 4)
    ]
    found = {"event": "event_type = 'click'", "match": ["session_id", "item_id"], "window_hours": 0.01}
    data = log_settings(
        write(tmp_path / "log.json", *shown, *clicks),
        impressions={"event": "event_type = 'view'", "click_event": found, "context": ["price"]},
        features=[{"column": "price", "kind": "number"}],
        split={"validation_fraction": 0},
    )
    ctx = make_context({**data, "report": {"key": ["user_id", "item_id"]}})
    ingest.run(ctx)
    impressions.run(ctx)
    encode.run(ctx)
    held = rows(ctx.catalog.read("samples"))
    assert {row["key_user_id"] for row in held} == {expected_pseudonym(name) for name in people}
    assert {row["key_item_id"] for row in held} == {"i0", "i1", "i2", "i3"}
    ctx.root.write_bytes(json.dumps({"s3://elsewhere/rows": {"samples": 0}}).encode(), *NOTED)
    hers = expected_pseudonym("Xanthippe")
    details = forget.run(ctx, user="Xanthippe").details
    assert details["removed"]["samples"] == sum(row["key_user_id"] == hers for row in held) > 5
    assert details["had_seen"]["exports"] == ["s3://elsewhere/rows"]
    assert hers not in {row["key_user_id"] for row in rows(ctx.catalog.read("samples"))}
