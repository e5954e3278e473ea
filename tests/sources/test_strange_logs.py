"""Logs nobody had planned for: true and false, maps, and names that are words of SQL."""

from pathlib import Path

import pytest

from helpers.logs import rows, write
from helpers.three_column_logs import config, view
from sie_spark.impressions import impressions
from sie_spark.ingest import ingest
from sie_spark.platform.errors import ConfigError, SourceError

pytestmark = pytest.mark.spark


def test_labels_that_are_true_or_false(make_context, tmp_path: Path) -> None:
    log = write(tmp_path / "log.json", *[view(at, y=at % 2 == 0, n=at) for at in range(30)])
    texts = {"bool": "y", "text": "initcap(string(y))"}
    for name, sql in texts.items():
        source = {"format": "json", "columns": "t STRING, u STRING, i STRING, y BOOLEAN"}
        columns = {"label": sql}
        ctx = make_context(
            config(log, kind="impressions", source=source, columns=columns), root=tmp_path / name
        )
        assert ingest.run(ctx).rows.kept == 30
        impressions.run(ctx)
        found = rows(ctx.catalog.read("impressions").orderBy("event_ts"))
        assert [row["label"] for row in found] == [1.0, 0.0] * 15


def test_impressions_with_maps_are_brought_up_to_date(make_context, tmp_path: Path, spark) -> None:
    log = tmp_path / "log"
    chosen = {"label": "1", "tags": "tags", "deep": "array(struct(tags))", "any": "any"}
    for day in (1, 2):
        record = (f"'2024-03-0{day}' AS t", "'u' AS u", "'a' AS i", "parse_json('[1]') AS any")
        made = spark.range(1).selectExpr(*record, f"map('k', '2024-03-0{day}') AS tags")
        made.write.mode("append").format("delta").save(str(log))
        ctx = make_context(config(log, kind="impressions", source={"format": "delta"}, columns=chosen))
        ingest.run(ctx)
        impressions.run(ctx)
    found = ctx.catalog.read("impressions").selectExpr("tags", "deep[0].tags AS deep").orderBy("event_ts")
    assert [row["tags"]["k"] for row in rows(found)] == ["2024-03-01", "2024-03-02"]


@pytest.mark.parametrize(
    "sql",
    [
        'item_id != "item_id" AND item_id = "a"',
        "`item_id` = 'a' AND ITEM_ID = 'a'",
        "date = CAST('2024-03-01' AS date)",
    ],
)
def test_a_rule_may_be_any_sql(make_context, tmp_path: Path, sql: str) -> None:
    log = write(tmp_path / "log.json", view(1), view(2, i="b", d="2024-03-02"))
    columns = {"date": "coalesce(cast(d as date), date'2024-03-01')", "a": "i"}
    rule = {"column": "item_id", "check": "expression", "expression": sql}
    ctx = make_context(config(log, source={"format": "json"}, columns=columns, rules=[rule]))
    assert ingest.run(ctx).rows.as_dict() == {"read": 2, "kept": 1, "quarantined": 1, "duplicate": 0}


def test_one_name_in_two_cases_is_refused(make_context, tmp_path: Path) -> None:
    log = write(tmp_path / "log.json", view(1))
    with pytest.raises(ConfigError, match="'User_ID' and 'user_id' are one name|'user_id' and 'User_ID'"):
        ingest.run(make_context(config(log, source={"format": "json"}, columns={"User_ID": "u"})))


@pytest.mark.parametrize(
    ("format", "options", "columns", "said"),
    [
        ("json", {}, {"stay": "interval 1 second"}, "dataset.columns has a type that a table cannot hold"),
        ("json", {}, {"tags": "array()"}, "dataset.columns has a type that a table cannot hold"),
        ("json", {}, {"any": "parse_json(i)"}, "as the data set's YAML says: Unrecognized token 'a'"),
        ("csv", {"header": "true", "encoding": "windows-1252"}, {}, "source.options.encoding"),
    ],
)
def test_what_spark_refuses_names_the_setting(make_context, tmp_path, format, options, columns, said) -> None:
    log = write(tmp_path / "log", view(1) if format == "json" else "t,u,i")
    source = {"format": format, "options": options}
    with pytest.raises(SourceError, match=said):
        ingest.run(make_context(config(log, source=source, columns=columns)))


def test_a_delta_source_is_read_incrementally(make_context, tmp_path: Path, spark) -> None:
    log, source = str(tmp_path / "log"), {"format": "delta", "incremental": True, "on_new_column": "add"}
    source["columns"] = "t STRING, u STRING, i STRING, n INT"

    def add(first: int, last: int, *more: str) -> None:
        made = spark.range(first, last).selectExpr(
            "'2024-03-01 10:00:00' AS t", "'u' AS u", "'a' AS i", "cast(id AS int) AS n", *more
        )
        made.write.mode("append").option("mergeSchema", "true").format("delta").save(log)

    def ingested() -> dict[str, int]:
        ctx = make_context(config(log, source=source, columns={"n": "n"}, event_key=["n"]))
        return ingest.run(ctx).rows.as_dict()

    add(0, 10)
    assert ingested() == {"read": 10, "kept": 10, "quarantined": 0, "duplicate": 0}
    assert ingested()["read"] == 0
    add(8, 14)
    assert ingested() == {"read": 6, "kept": 4, "quarantined": 0, "duplicate": 2}
    add(14, 16, "'new' AS later")
    assert ingested() == {"read": 2, "kept": 2, "quarantined": 0, "duplicate": 0}
    spark.sql(f"UPDATE delta.`{log}` SET i = 'b' WHERE n = 3")
    with pytest.raises(SourceError, match="rows of it were changed") as error:
        ingested()
    assert "skipChangeCommits" in error.value.remedy
    source["options"] = {"skipChangeCommits": "true"}
    add(16, 17)  # other settings read all of it anew
    assert ingested() == {"read": 19, "kept": 1, "quarantined": 0, "duplicate": 18}
