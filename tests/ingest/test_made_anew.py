"""A column of another type than in table events: each remedy that is offered works when it is followed."""

import json
import re
import shutil
from pathlib import Path

import pytest

from helpers.logs import event, rows, write
from sie_spark.impressions import impressions
from sie_spark.ingest import ingest
from sie_spark.platform.config import Config, load_config
from sie_spark.platform.errors import ConfigError, SourceError
from sie_spark.upkeep import forget

pytestmark = pytest.mark.spark
FORCED = {"run": {"force": True}}


def config(path: Path, age: str = "age", **dataset: object) -> dict:
    columns = {"event_type": "kind", "user_id": "user", "session_id": "session", "item_id": "item"}
    base = {
        "name": "log",
        "source": {"path": str(path), "format": "json"},
        "event_time": {"expression": "ts", "format": "epoch_seconds"},
        "columns": {**columns, "key": "id", "age": age},
        "event_key": ["key"],
        "impressions": {"context": ["age"], "list_relative": ["age"]},
        "history": {"session": False},
        "tolerate": 0.5,
    }
    return {"dataset": {**base, **dataset}}


def log(path: Path, *ids: str) -> Path:
    return write(path, *[event(id, age=str(20 + at), user=f"u{id}") for at, id in enumerate(ids)], "torn")


def ages(ctx) -> dict[str, object]:
    return {row["key"]: row["age"] for row in rows(ctx.catalog.read("events"))}


def with_setting(made: dict, pair: str, folder: Path) -> Config:
    """As ``--set pair`` does."""
    file = folder / "log.yaml"
    file.write_text(json.dumps(made))
    return load_config(file, overrides=(pair,))


def test_the_way_out_of_a_type_that_was_wrong(make_context, tmp_path: Path) -> None:
    file = log(tmp_path / "log.json", "a", "b", "c")
    ingest.run(make_context(config(file)))
    impressions.run(make_context(config(file)))
    cast = config(file, "try_cast(age AS DOUBLE)")
    with pytest.raises(SourceError, match="column 'age' is double now and string in table events") as error:
        ingest.run(make_context(cast))
    new, old = error.value.remedy.split("; for string: ")
    # to keep the type
    sql = re.search(r"set dataset\.columns\.age: (.+), or source", old)[1]
    assert ingest.run(make_context(config(file, sql))).rows.duplicate == 4
    # to have the new one
    (pair,) = re.findall(r"--set (\S+),", new)
    result = ingest.run(make_context(with_setting(cast, pair, tmp_path)))
    assert result.rows.as_dict() == {"read": 4, "kept": 3, "quarantined": 1, "duplicate": 0}
    ctx = make_context(cast)
    assert ages(ctx) == {"a": 20.0, "b": 21.0, "c": 22.0}
    assert ctx.catalog.read("quarantine").count() == 1
    assert ingest.run(ctx).skipped
    held = impressions.run(ctx)
    assert held.metrics["impressions"] == 3
    assert dict(ctx.catalog.read("impressions").dtypes)["age"] == "double"
    # what the ledger said of the mapping before is not true of these tables
    with pytest.raises(SourceError, match="column 'age' is string now and double"):
        ingest.run(make_context(config(file)))
    # a promise of the tables is kept
    bad = ctx.catalog.read("events").selectExpr("* EXCEPT (sampling_rate)", "2.0D AS sampling_rate")
    with pytest.raises(Exception, match=r"CHECK constraint|DELTA_VIOLATE_CONSTRAINT"):
        bad.write.format("delta").mode("append").save(ctx.catalog.path("events"))


@pytest.mark.parametrize("left", ["another source", "some dates", "a person forgotten"])
def test_what_the_source_cannot_give_again_stays(make_context, tmp_path: Path, left: str) -> None:
    """Then force is not offered, and where it is set it loses nothing and brings nobody back."""
    first, second = log(tmp_path / "1.json", "a", "b"), log(tmp_path / "2.json", "c")
    ingest.run(make_context(config(first)))
    file = first
    if left == "another source":
        ingest.run(make_context(config(second)))
        file = second
    elif left == "a person forgotten":
        forget.run(make_context(config(first)), user="ub")
    cast = config(file, "try_cast(age AS DOUBLE)")
    if left == "some dates":
        cast |= {"run": {"force": True, "date_from": "2024-03-01", "date_to": "2024-03-01"}}
    before = ages(make_context(config(file)))
    with pytest.raises(SourceError, match="double now and string") as error:
        ingest.run(make_context(FORCED | cast))
    assert "another --root" in error.value.remedy and "force" not in error.value.remedy
    assert ages(make_context(config(file))) == before
    assert ingest.run(make_context(cast | {"run": {}}, root=tmp_path / "another")).rows.kept == len(
        ages_of(file)
    )


def ages_of(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line.startswith("{")]


@pytest.mark.parametrize("moment", ["quarantine", "events"])
@pytest.mark.parametrize("forced", [True, False])
def test_killed_while_the_tables_are_made_anew(
    make_context, tmp_path: Path, monkeypatch, moment: str, forced: bool
) -> None:
    file = log(tmp_path / "log.json", "a", "b", "c")
    ingest.run(make_context(config(file)))
    cast = config(file, "try_cast(age AS DOUBLE)")
    real = ingest.replace_rows

    def dies(catalog, frame, name, **more) -> None:
        real(catalog, frame, name, **more)
        if name == moment:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingest, "replace_rows", dies)
        ingest.run(make_context(cast | FORCED))
    if moment == "quarantine" and not forced:  # table events is as it was: the same way out as before
        with pytest.raises(SourceError) as error:
            ingest.run(make_context(cast))
        assert "--set run.force=true" in error.value.remedy
        forced = True
    ctx = make_context(cast | FORCED if forced else cast)
    ingest.run(ctx)
    assert ages(ctx) == {"a": 20.0, "b": 21.0, "c": 22.0} and ctx.catalog.read("quarantine").count() == 1


def test_a_run_that_is_refused_fixes_nothing(make_context, tmp_path: Path) -> None:
    """Neither types nor the name of a root."""
    file = write(tmp_path / "log.json", *[event(str(at), age="x") for at in range(3)], *["torn"] * 9)
    with pytest.raises(SourceError, match="9 of 12 records"):
        ingest.run(make_context(config(file)))
    log(file, "a", "b")
    made = config(file, "try_cast(age AS DOUBLE)", name="other")
    assert ingest.run(make_context(made)).rows.kept == 2
    with pytest.raises(ConfigError, match="holds data set 'other'"):
        ingest.run(make_context(config(file)))
    assert json.loads(Path(tmp_path / "root" / "state" / "dataset.json").read_text())["dataset"] == "other"
    shutil.rmtree(tmp_path / "root" / "tables")
    assert ingest.run(make_context(config(file))).rows.kept == 2
