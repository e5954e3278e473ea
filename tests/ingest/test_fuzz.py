"""Whatever a log holds, every record is an event, a quarantined row or a duplicate."""

import json
import random
from pathlib import Path

import pytest

from helpers.logs import START, event, settings, write
from sie_spark.ingest import ingest

pytestmark = pytest.mark.spark
RULES = [
    {"column": "user_id", "check": "required"},
    {"column": "price", "check": "range", "min": 0},
    {"column": "item_id", "check": "regex", "pattern": "^i"},
    {"column": "event_ts", "check": "not_future"},
]
ODD = [
    None,
    "",
    " ",
    "NaN",
    "null",
    -1,
    0,
    1e308,
    10**400,
    -(2**63),
    2**63,
    0.1,
    True,
    [],
    {},
    [1, [2, [3]]],
    {"a": {"b": [None, {"c": "d"}]}},
    "\u0000",
    "\ud800",
    "\u202e",
    "é" * 50,
    "'; DROP TABLE events; --",
    "1970-01-01",
    "9999-12-31T23:59:59Z",
    "0000-00-00",
    "-99999-01-01",
    "}{",
    '"',
    "\\",
    "\r",
]


def mutated(draw: random.Random, number: int) -> bytes:
    """One record, damaged in one of many ways, or whole."""
    record = event(
        str(draw.randrange(number + 1)), ts=START + draw.randrange(10**6), item=f"i{draw.randrange(99)}"
    )
    kind = draw.randrange(12)
    if kind < 4:
        for _ in range(draw.randrange(1, 4)):
            record[draw.choice(list(record))] = draw.choice(ODD)
    elif kind == 4:
        for name in draw.sample(list(record), 3):
            del record[name]
    elif kind == 5:
        record[draw.choice(["extra", "Ts", "USER", "", "a.b", "`"])] = draw.choice(ODD)
    text = json.dumps(record, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    if kind == 6:
        cut = draw.randrange(len(text))
        text = text[:cut]
    elif kind == 7:
        at = draw.randrange(len(text))
        text = text[:at] + bytes([draw.choice([0, 0x80, 0xC3, 0xFF, 0x22, 0x5C, 0x7B])]) + text[at + 1 :]
    elif kind == 8:
        text = bytes(draw.randrange(256) for _ in range(draw.randrange(60)))
    elif kind == 9:
        text = b"[" * draw.randrange(2000) + text
    elif kind == 10:
        text = text + text
    # a line feed ends a record, and a carriage return too where Spark splits lines
    return text.replace(b"\n", b" ").replace(b"\r", b" ")


def check(make_context, tmp_path: Path, number: int, long: int) -> None:
    draw = random.Random(17)
    lines = [mutated(draw, number) for _ in range(number)]
    lines += [json.dumps(event(f"long{n}", item="i" + "x" * long)).encode() for n in range(2)]
    lines += [b'{"user": "' + b"y" * long]
    ctx = make_context(settings(write(tmp_path / "log.json", *lines), rules=RULES))
    result = ingest.run(ctx)
    held = result.rows
    assert held.read == len(lines)
    assert held.read == held.kept + held.quarantined + held.duplicate
    assert ctx.catalog.read("events").count() == held.kept
    assert ctx.catalog.read("quarantine").count() == held.quarantined
    assert held.kept > number / 10 and held.quarantined > number / 10
    events = ctx.catalog.read("events")
    assert events.where("user_id IS NULL OR NOT item_id LIKE 'i%' OR isnan(price) OR price < 0").count() == 0
    assert events.select("event_id", "event_date").distinct().count() == held.kept
    assert ctx.catalog.read("quarantine").where("record IS NULL AND unparsed IS NULL").count() == 0
    assert ingest.run(ctx).skipped


def test_two_thousand_records(make_context, tmp_path: Path) -> None:
    check(make_context, tmp_path, 2_000, 200_000)


@pytest.mark.slow
def test_a_hundred_thousand_records_and_strings_of_ten_megabytes(make_context, tmp_path: Path) -> None:
    check(make_context, tmp_path, 100_000, 10_000_000)
