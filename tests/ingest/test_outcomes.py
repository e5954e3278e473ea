"""What a label, a click or a purchase may hold: one rule wherever it comes from, and the line that maps the others."""

import json
import random
import re
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from helpers.logs import DAY, START, event, rows, settings, write
from sie_spark.impressions import impressions
from sie_spark.ingest import ingest
from sie_spark.ingest.outcomes import mapped
from sie_spark.platform.errors import DataError

VALUES = [
    0,
    1,
    2,
    3,
    None,
    "yes",
    "no",
    "1",
    "0",
    "1.0",
    "0.0",
    "True",
    "FALSE",
    True,
    False,
    1.0,
    -1,
    0.5,
    "",
    " 1",
]
MEANT = {
    0: 0,
    1: 1,
    "1": 1,
    "0": 0,
    "1.0": 1,
    "0.0": 0,
    "True": 1,
    "FALSE": 0,
    " 1": 1,
}  # True is 1 and False is 0
COLUMNS = {"event_type": "kind", "user_id": "user", "session_id": "session", "item_id": "item", "key": "id"}
COLUMNS_OF_LOG = "id STRING, kind STRING, ts BIGINT, user STRING, session STRING, item STRING"


def log_of(values: list, path: Path) -> Path:
    return write(path, *[event(str(at), c=value, user=f"u{at}") for at, value in enumerate(values)])


@pytest.mark.spark
@pytest.mark.parametrize(
    ("kind", "place", "names"),
    [
        ("impressions", "columns", ["label", "click", "conversion"]),
        ("events", "columns", ["click", "conversion"]),
        ("events", "impressions", ["click", "conversion"]),
    ],
)
def test_one_rule_for_every_outcome(
    make_context, tmp_path: Path, kind: str, place: str, names: list[str]
) -> None:
    """Labelled rows and events, columns and SQL: the same values are 0, 1, or in quarantine with their reason."""
    log, wanted, left = [], {}, {}
    for name in names:
        for at, value in enumerate(VALUES):
            id = f"{name} {at}"
            log.append(event(id, **{**dict.fromkeys(names, 0), name: value}))
            if value in MEANT:
                wanted[id] = {**dict.fromkeys(names, 0), name: MEANT[value]}
            else:
                left[id] = [f"{name}:not 0 or 1"]
    source = {"columns": ", ".join([COLUMNS_OF_LOG, *[f"{name} STRING" for name in names]])}
    given = {f"of_{name}" if place == "impressions" else name: name for name in names}
    shown = {name: f"of_{name}" for name in names} if place == "impressions" else {}
    config = settings(
        write(tmp_path / "log.json", *log),
        source=source,
        columns={**COLUMNS, **given},
        kind=kind,
        impressions=shown,
        tolerate=1,
    )
    ctx = make_context(config)
    ingested, sampled = ingest.run(ctx), impressions.run(ctx)
    keys = {row["event_id"]: row["key"] for row in rows(ctx.catalog.read("events"))}
    held = {keys[row["event_id"]]: row for row in rows(ctx.catalog.read("impressions"))}
    assert held.keys() == wanted.keys()
    shown_names = [name for name in names if name != "label"]
    assert {id: [row[name] for name in shown_names] for id, row in held.items()} == {
        id: [row[name] for name in shown_names] for id, row in wanted.items()
    }
    found = {}
    for row in rows(ctx.catalog.read("quarantine")):
        record = json.loads(row["record"])
        found[record.get("id") or keys[record["event_id"]]] = row["reasons"]
    assert found == left
    for said in (ingested.rows, sampled.rows):
        assert said.read == said.kept + said.quarantined and not said.duplicate
    assert (ingested.rows.read, sampled.rows.read) == (len(log), ingested.rows.kept)
    nulls = sum(
        reason == ["click:not 0 or 1"] and VALUES[int(id.split()[1])] is None for id, reason in left.items()
    )
    assert nulls == 1
    assert bool(sampled.details["cautions"]) == (kind == "events")  # who shows an item is known here only


@pytest.mark.spark
def test_of_a_list_only_the_unclear_items_are_set_aside(make_context, tmp_path: Path) -> None:
    """Killed, run again, and date by date the tables are the same; what was shown is an impression or rejected."""
    draw = random.Random(4)
    log, wanted, out = [], {}, set()
    for number in range(60):
        clicks = [draw.choice([0, 0, 0, 0, 0, 0, 1, 1, 2, None]) for _ in range(draw.randrange(0, 5))]
        log.append(
            event(str(number), ts=START + (number % 3) * DAY, shown="|".join("abcd"[: len(clicks)]), n=clicks)
        )
        for at, count in enumerate(clicks):
            if count in (0, 1):
                wanted[str(number), "abcd"[at]] = count
            else:
                out.add((str(number), "abcd"[at], count))
    columns = {**COLUMNS, "items": "split(nullif(shown, ''), '[|]')", "n": "n"}
    source = {"columns": f"{COLUMNS_OF_LOG}, shown STRING, n ARRAY<INT>"}
    shown = {"items": "items", "parallel": {"times": "n"}, "click": "times", "list_relative": ["position"]}
    config = settings(
        write(tmp_path / "log.json", *log), source=source, columns=columns, impressions=shown, tolerate=0.5
    )

    def tables(ctx) -> tuple[dict, set]:
        keys = {row["event_id"]: row["key"] for row in rows(ctx.catalog.read("events"))}
        made = {
            (keys[row["event_id"]], row["item_id"]): row["click"]
            for row in rows(ctx.catalog.read("impressions"))
        }
        records = [json.loads(row["record"]) for row in rows(ctx.catalog.read("quarantine"))]
        left = {
            (keys[one["event_id"]], one["item_id"], None if one["click"] is None else int(one["click"]))
            for one in records
        }
        assert len(left) == len(records)
        return made, left

    whole = make_context(config, root=tmp_path / "whole")
    ingest.run(whole)
    result = impressions.run(whole)
    assert tables(whole) == (wanted, out)
    assert result.rows.as_dict() == {
        "read": len(wanted) + len(out),
        "kept": len(wanted),
        "quarantined": len(out),
        "duplicate": 0,
    }
    dated = make_context(config, root=tmp_path / "dated")
    ingest.run(dated)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(impressions, "_written", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            impressions.run(dated)
    for day in (2, 1, 3):
        asked = {"run": {"date_from": f"2024-03-0{day}", "date_to": f"2024-03-0{day}"}}
        impressions.run(make_context(config | asked, root=tmp_path / "dated"))
    assert tables(dated) == (wanted, out)
    version = dated.catalog.version("quarantine")
    forced = impressions.run(make_context(config | {"run": {"force": True}}, root=tmp_path / "dated"))
    assert forced.rows == result.rows and dated.catalog.version("quarantine") == version


@pytest.mark.spark
def test_many_unclear_clicks_stop_the_run_and_its_remedy_works(make_context, tmp_path: Path) -> None:
    values = [0] * 50 + [1] * 30 + [2] * 12 + [5] * 3 + [None] * 5
    log = log_of(values, tmp_path / "log.json")
    source = {"columns": f"{COLUMNS_OF_LOG}, c INT"}
    base = settings(
        log, source=source, columns={**COLUMNS, "c": "c"}, impressions={"click": "c"}, tolerate=0.05
    )
    ctx = make_context(base)
    ingest.run(ctx)
    with pytest.raises(
        DataError, match=r"20 of 100 shown items \(20 %\).*2 \(12 times\), null \(5 times\), 5"
    ) as error:
        impressions.run(ctx)
    assert not ctx.catalog.exists("impressions") and ctx.catalog.read("quarantine").count() == 0
    setting, sql = re.search(
        r"for example dataset\.(impressions\.click): (.+?); or", error.value.remedy
    ).groups()
    base["dataset"]["impressions"]["click"] = sql
    assert setting == "impressions.click" and sql == "coalesce(c > 0, false)"
    assert impressions.run(make_context(base)).metrics["clicks"] == sum(1 for value in values if value)
    base["dataset"]["impressions"]["click"] = "c"
    base["dataset"]["tolerate"] = float(re.search(r"--set dataset.tolerate=([\d.]+)", error.value.remedy)[1])
    assert impressions.run(make_context(base)).rows.quarantined == 20


@pytest.mark.spark
@pytest.mark.parametrize(
    ("sql", "kind", "values", "meant"),
    [
        ("c", "int", [0, 2, None, 1], [0, 1, 0, 1]),
        ("c", "int", [1, 2, 3, None], [0, 1, 1, 0]),
        ("c + 1", "double", [-1.0, 0.0, 3.0], [0, 1, 1]),
        ("c", "boolean", [True, None, False], [1, 0, 0]),
        ("c", "string", ["1", None, "true", "0"], [1, 0, 1, 0]),
        ("c", "string", ["3", None, "0", "1.0"], [1, 0, 0, 1]),
        ("c", "string", ["Yes", "no", "1", "0", None], [1, 0, 1, 0, 0]),
        ("c", "string", ["it's", "no"], [1, 0]),
        ("c", "decimal(10,2)", ["0.00", "1.50", None], [0, 1, 0]),
        ("`a c`", "bigint", [0, 7], [0, 1]),
        ("if(c > 5, null, c)", "int", [0, 2, 9], [0, 1, 0]),
    ],
)
def test_the_line_that_maps_works_when_copied(spark, sql: str, kind: str, values: list, meant: list) -> None:
    name = "a c" if "`" in sql else "c"
    typed = [F.lit(value).cast(kind).alias(name) for value in values]
    frame = spark.range(1).select(F.explode(F.array(*typed)).alias(name))
    texts = [row[0] for row in frame.select(F.expr(sql).cast("string")).collect()]
    for keep in (False, True):
        line = mapped(sql, [(text, 1) for text in texts], frame.select(F.expr(sql)).dtypes[0][1], keep=keep)
        made = frame.select(F.expr(line).alias("made"))
        if keep:
            assert made.dtypes[0][1] == frame.select(F.expr(sql)).dtypes[0][1]
        found = [str(row[0]).lower() for row in made.collect()]
        assert [int(float({"true": "1", "false": "0"}.get(text, text))) for text in found] == meant, line
