"""A log of which too much is wrong stops, says why in examples that name nobody, and its remedy works."""

import re
from pathlib import Path

import pytest

from helpers.logs import DAY, START, event, rows, settings, write
from sie_spark.ingest import ingest
from sie_spark.platform.errors import SourceError

pytestmark = pytest.mark.spark
COLUMNS = "id STRING, kind STRING, ts BIGINT, user STRING, session STRING, item STRING, price DOUBLE, c INT"
PERSON = "ann@example.org"


def log(path: Path, *, parse: int = 0, time: int = 0, label: int = 0, duplicate: int = 0) -> Path:
    """100 records, so many of which are wrong in each way."""
    good = 100 - parse - time - label - duplicate
    records = [event(f"g{at}", c=at % 2, user=PERSON) for at in range(good)]
    broken = [f'{{"id": "p{at}", "user": "{PERSON}"' for at in range(parse)]
    late = [event(f"t{at}", c=1, ts=f"{PERSON}, 1st of May", user=PERSON) for at in range(time)]
    seven = [event(f"l{at}", c=7, user=PERSON) for at in range(label)]
    return write(path, *records, *broken, *late, *seven, *records[:duplicate])


def config(path: Path, **dataset: object) -> dict:
    columns = {"label": "c", "user_id": "user", "key": "id", "price": "price"}
    base = {"kind": "impressions", "columns": columns, "source": {"columns": COLUMNS}}
    made = settings(path, **{**base, **dataset})
    if "tolerate" not in dataset:
        del made["dataset"]["tolerate"]
    return made


def refused(ctx) -> SourceError:
    """Nothing is left of a run that stops, and nobody is named."""
    held = {name: ctx.catalog.version(name) for name in ("events", "quarantine") if ctx.catalog.exists(name)}
    with pytest.raises(SourceError) as error:
        ingest.run(ctx)
    assert held == {name: ctx.catalog.version(name) for name in held}
    assert held or not (ctx.catalog.exists("events") or ctx.catalog.exists("quarantine"))
    assert PERSON not in str(error.value) + error.value.remedy
    return error.value


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"parse": 6, "label": 5, "duplicate": 5}, r"6 of 100 records .6 %. cannot be read .*'unparsable' 6 times"),
        (
            {"time": 3, "parse": 3, "label": 5},
            r"6 of 100 records .6 %. cannot.*'type:ts' 3 times, such as ts=xxx@xxxxxxx.xxx, 9xx xx xxx .log.json.",
        ),
        ({"label": 6, "parse": 5}, r"6 of 100 records .6 %. have an outcome .*'label:not 0 or 1', where c is 7 .6 times."),
        ({"duplicate": 6, "label": 5}, r"6 of 100 records .6 %. have the dataset.event_key .key. .*: key=g\d .2 times.;"),
    ],
)  # fmt: skip
def test_a_share_above_the_tolerated_one_stops_the_run(
    make_context, tmp_path: Path, wrong: dict, said: str
) -> None:
    file = log(tmp_path / "log.json", **wrong)
    error = refused(make_context(config(file)))
    assert re.search(said, str(error)), error
    assert "dataset.tolerate allows 5 % of each" in str(error) and str(error).count("records (") == 1
    assert not list((tmp_path / "root" / "_staging").iterdir())
    raised = float(re.search(r"--set dataset.tolerate=([\d.]+)", error.remedy)[1])
    assert raised == 0.06
    good = 100 - sum(wrong.values())
    told = ingest.run(make_context(config(file, tolerate=raised))).rows
    lost = wrong.get("duplicate", 0)
    assert told.as_dict() == {"read": 100, "kept": good, "quarantined": 100 - good - lost, "duplicate": lost}


def test_what_is_tolerated_is_said(make_context, tmp_path: Path) -> None:
    file = log(tmp_path / "log.json", parse=5, label=5, duplicate=5)
    result = ingest.run(make_context(config(file)))
    assert result.rows.as_dict() == {"read": 100, "kept": 85, "quarantined": 10, "duplicate": 5}
    unclear, unread, twice = result.cautions
    assert "5 of 100 records (5 %)" in unclear and "cast(coalesce(c > 0, false) AS INT)" in unclear
    assert "cannot be read" in unread and "duplicates within the delivery" in twice
    # the same records once more, and the table knows them: no duplicates within the delivery
    again = write(tmp_path / "again.json", *[event(f"g{at}", c=at % 2, user=PERSON) for at in range(40)])
    told = ingest.run(make_context(config(again)))
    assert told.rows.duplicate == 40 and not told.cautions


def test_ones_own_rules_reject_as_many_as_they_will(make_context, tmp_path: Path) -> None:
    """With labels that are not known yet among them; what else is wrong with such a record is not counted."""
    rule = {"column": "price", "check": "range", "min": 0, "name": "not final yet"}
    waiting = [event(f"w{at}", c=None, price=-1, user=PERSON) for at in range(30)]
    records = [event(f"g{at}", c=at % 2, user=PERSON) for at in range(70)]
    file = write(tmp_path / "log.json", *records, *waiting)
    result = ingest.run(make_context(config(file, rules=[rule])))
    assert result.rows.as_dict() == {"read": 100, "kept": 70, "quarantined": 30, "duplicate": 0}
    assert result.cautions == ["The data set's own rules reject 30 of 100 records (30 %): not final yet 30."]
    file = write(tmp_path / "log.json", *waiting)
    error = refused(make_context(config(file, rules=[rule]), root=tmp_path / "none"))
    assert "every one of 30 records break" in str(error) and "tolerate" not in error.remedy


def test_only_the_asked_dates_are_counted(make_context, tmp_path: Path) -> None:
    records = [event(f"g{at}", c=at % 2, ts=START + at % 2 * DAY) for at in range(60)]
    bad = [event(f"b{at}", c=3, ts=START + DAY) for at in range(30)]
    file = write(tmp_path / "log.json", *records, *bad)
    first, second = (
        {"run": {"date_from": f"2024-03-0{day}", "date_to": f"2024-03-0{day}"}} for day in (1, 2)
    )
    assert ingest.run(make_context(config(file) | first)).rows.kept == 30
    assert "30 of 60 records (50 %)" in str(refused(make_context(config(file) | second)))


def test_values_of_somebody_are_not_shown(make_context, tmp_path: Path) -> None:
    """A label that was mapped to a person by mistake."""
    columns = {"label": "user", "user_id": "user", "key": "id"}
    error = refused(make_context(config(log(tmp_path / "log.json"), columns=columns)))
    assert "where user is 'xxx@xxxxxxx.xxx' (100 times)" in str(error)


def test_the_remedy_of_a_graded_label_works_when_copied(make_context, tmp_path: Path) -> None:
    """Graded relevance: all that the old rule would have kept are ones."""
    grades = [1 + at % 3 for at in range(90)]
    file = write(tmp_path / "log.json", *[event(str(at), c=grade) for at, grade in enumerate(grades)])
    made = config(file)
    error = refused(make_context(made))
    assert "60 of 90 records (66.7 %)" in str(error) and "2 (30 times), 3 (30 times)" in str(error)
    setting, sql = re.search(r"for example dataset\.columns\.(\w+): (.+?); to go on", error.remedy).groups()
    made["dataset"]["columns"][setting] = sql
    ctx = make_context(made)
    assert ingest.run(ctx).rows.kept == 90
    held = [row["label"] for row in rows(ctx.catalog.read("events").orderBy("key"))]
    assert sum(held) == 60 and set(held) == {0, 1}


def test_ragged_lines_are_not_called_torn_ones(make_context, tmp_path: Path) -> None:
    lines = [f"g{at},{START},{at % 2},1.5" for at in range(90)]
    ragged = [f"b{at},{START},1,1.5,and,more" for at in range(60)]
    file = write(tmp_path / "log.csv", "id,ts,c,price", *lines, *ragged)
    source = {"format": "csv", "options": {"header": "true"}, "columns": None}
    columns = {"label": "c", "key": "id"}
    error = refused(make_context(config(file, source=source, columns=columns)))
    assert "60 of 150 records (40 %)" in str(error) and "such as x9,9999999999,9,9.9,xxx,xxxx" in str(error)
    assert "these lines have 6 fields, where its header names 4" in error.remedy
    assert "multiLine" not in error.remedy


def test_an_incremental_delivery_that_is_refused(make_context, tmp_path: Path) -> None:
    """The first one leaves nothing, and is read again when it is mended; a later one waits for the setting."""
    folder, made = tmp_path / "log", {"source": {"columns": COLUMNS, "incremental": True}}
    log(folder / "1.json", label=30)
    ctx = make_context(config(folder, **made))
    for _ in range(2):
        assert "30 of 100 records (30 %)" in str(refused(ctx))
    assert not ctx.root.entries("_staging") and not ctx.root.entries("checkpoints")
    log(folder / "1.json")
    assert ingest.run(ctx).rows.kept == 100
    write(folder / "2.json", *[event(f"n{at}", c=at % 3) for at in range(90)])
    write(folder / "3.json")
    for _ in range(2):
        assert "30 of 90 records (33.3 %)" in str(refused(ctx))
    log(folder / "4.json", duplicate=50)  # of what is known already; a delivery of its own
    told = ingest.run(make_context(config(folder, tolerate=0.5, **made))).rows
    assert told.as_dict() == {"read": 190, "kept": 60, "quarantined": 30, "duplicate": 100}
