"""Facts of dates are kept while a table stays the one it was, and no longer."""

import shutil
from datetime import date
from pathlib import Path

import pytest

from helpers.logs import settings
from sie_spark.impressions.days import facts_by_date, label_counts
from sie_spark.impressions.stale import date_digests, maturing
from sie_spark.platform.catalog import metadata

pytestmark = pytest.mark.spark


def test_only_changed_dates_of_the_same_table_are_read_again(make_context, tmp_path: Path, spark) -> None:
    ctx = make_context(settings(tmp_path / "log.json"))
    place = Path(ctx.catalog.path("impressions"))
    looked: list[list[str]] = []

    def write(day: str, position: int, dates: str | None) -> None:
        row = (position, 1, 0, True)
        frame = spark.createDataFrame([row], "position int, click int, conversion int, label_mature boolean")
        frame = frame.selectExpr("*", f"DATE'{day}' AS event_date").write.format("delta").mode("append")
        more = {} if dates is None else {"dates": dates}
        stamp = metadata(job="impressions", fingerprint="", **more)
        frame.option("userMetadata", stamp).partitionBy("event_date").save(str(place))

    def facts(context=ctx) -> dict:
        def measure(frame):
            found = label_counts(frame)
            looked.append(sorted(found))
            return found

        return facts_by_date(context, "impressions", context.catalog.version("impressions"), measure)

    (place / "_delta_log").mkdir(parents=True)  # what a writer leaves that is killed before its first commit
    assert not ctx.catalog.exists("impressions")
    write("2024-03-01", 3, None)
    assert ctx.catalog.exists("impressions")
    assert facts() == facts() == {"2024-03-01": {"3": [1, 1, 0, 1]}}
    write("2024-03-02", 70, '["2024-03-02"]')
    write("2024-03-02", -5, '["2024-03-02"]')
    second = {"50": [1, 1, 0, 1], "0": [1, 1, 0, 1]}
    assert facts() == {"2024-03-01": {"3": [1, 1, 0, 1]}, "2024-03-02": second}
    assert looked == [["2024-03-01"], ["2024-03-02"]]
    write("2024-03-03", 1, None)  # a commit that does not say which dates it changed
    assert set(facts()) == {"2024-03-01", "2024-03-02", "2024-03-03"} == set(looked[-1])
    version = ctx.catalog.version("impressions")

    shutil.rmtree(place)  # made anew, and just as many commits later
    for _ in range(version + 1):
        write("2024-04-01", 1, '["2024-04-01"]')
    again = make_context(settings(tmp_path / "log.json"), root=Path(ctx.root.uri))
    assert again.catalog.version("impressions") == version
    assert facts(again) == {"2024-04-01": {"1": [version + 1] * 2 + [0, version + 1]}}


def test_labels_become_final_and_stop_being_so_when_the_newest_event_moves() -> None:
    days = [f"2024-03-0{day}" for day in range(1, 10)]
    early, late = "2024-03-05 12:00:00", "2024-03-07 12:00:00"
    # the log ends earlier once the person of its last events is forgotten
    for before, now in ((early, late), (late, early)):
        assert maturing(days, before, now, 24.0) == ["2024-03-04", "2024-03-05", "2024-03-06", "2024-03-07"]
    assert maturing(days, None, early, 24.0) == days[:5]
    assert maturing(days, late, late, 24.0) == maturing(days, late, None, 24.0) == []


def test_a_value_that_moves_to_another_column_is_another_row(spark) -> None:
    one, other = (
        spark.sql(f"SELECT DATE'2024-03-01' AS event_date, {row}")
        for row in ("'x' AS a, NULL AS b", "NULL AS a, 'x' AS b")
    )
    assert date_digests(one) != date_digests(other)
    assert date_digests(one) == date_digests(one.select("b", "event_date", "a"))


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("array<string>", ["x", None], ["x"]),
        ("array<int>", [1, None], [None, 1]),
        ("struct<a: int, b: int>", (1, None), (None, 1)),
        ("map<string, int>", {"a": None}, {}),
    ],
)
def test_nulls_within_a_value_make_another_row(spark, kind: str, one: object, other: object) -> None:
    digests = [
        date_digests(spark.createDataFrame([(date(2024, 3, 1), value)], f"event_date DATE, a {kind}"))
        for value in (one, other)
    ]
    assert digests[0] != digests[1]
