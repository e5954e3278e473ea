"""What README shows of a log of your own is a whole data set."""

import json
import re
from pathlib import Path

import pytest
import yaml

from helpers.logs import rows, write
from sie_spark.features import encode
from sie_spark.importance import catalogue
from sie_spark.impressions import impressions
from sie_spark.ingest import ingest

README = Path(__file__).parents[1] / "README.md"
START = 1_709_251_200_000  # 2024-03-01 00:00 UTC
HOUR = 3_600_000


def test_readme_lists_every_score_as_it_describes_itself() -> None:
    assert catalogue.table() in README.read_text(encoding="utf-8"), "python -m sie_spark.importance.catalogue"


def record(event: str, ts: int, sku: str, **values: object) -> dict:
    at = {"event": event, "ts": START + ts, "sku": sku, "visitor": "ann", "visit": "v1"}
    return {**at, "rank": 1, "search_term": "red shoes", "price": "9.5", **values}


@pytest.mark.spark
def test_the_yaml_of_readme_takes_a_log_to_samples(make_context, tmp_path: Path) -> None:
    log_yaml, arms_yaml = re.findall(
        r"```yaml\n(.+?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    bought = [
        record("view", 0, "a"),
        record("view", 0, "b", rank=2),
        record("click", 60_000, "a"),
        record("click", 2 * HOUR, "b"),  # later than an hour
        record("order", 30 * HOUR, "a", visit="v2"),  # in another visit
        record("view", 31 * HOUR, "a", visit="v3"),
    ]
    others = [record("view", HOUR * n, f"c{n}", visitor=f"u{n}", visit=f"w{n}") for n in range(40)]
    others += [
        record("click", HOUR * n + 1, f"c{n}", visitor=f"u{n}", visit=f"w{n}") for n in range(0, 40, 2)
    ]
    wrong = [record("view", 1, "d", price="-1"), record("hover", 2, "d"), "{"]
    # a file and a root of names that are no plain words: what Spark, SQL and Arrow read must be one place
    log = write(tmp_path / "log #1, 50% of ü.json", *bought, *others, *wrong, bought[0])
    data = yaml.safe_load(log_yaml) | yaml.safe_load(arms_yaml)
    data["dataset"]["source"]["path"] = str(log)
    ctx = make_context(data, root=tmp_path / "exp #2: it's 50%")
    read = ingest.run(ctx).rows
    assert read.as_dict() == {"read": 70, "kept": 66, "quarantined": 3, "duplicate": 1}
    held = json.dumps(rows(ctx.catalog.read("quarantine")), default=str)
    assert "price:range" in held and "event_type:set" in held and "unparsable" in held and "ann" not in held
    impressions.run(ctx)
    found = {
        (row["item_id"], row["event_ts"].day): (row["click"], row["conversion"], row["hist_click"])
        for row in rows(ctx.catalog.read("impressions").where("item_id IN ('a', 'b')"))
    }
    assert found == {("a", 1): (1, 1, 0), ("b", 1): (0, 0, 0), ("a", 2): (0, 0, 0)}
    # one is left out: its hour for a click ends after the validation rows begin
    assert encode.run(ctx).rows.as_dict() == {"read": 43, "kept": 42, "quarantined": 0, "duplicate": 0}
