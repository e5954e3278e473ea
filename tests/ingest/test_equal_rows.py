"""Equal rows of a table are different people: each counts once a delivery, whatever is delivered again."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.logs import rows, write
from sie_spark.impressions import impressions
from sie_spark.ingest import ingest
from sie_spark.ingest.pseudonyms import ENVIRONMENT
from sie_spark.platform.errors import SourceError

pytestmark = pytest.mark.spark
COLUMNS = "age INT, sex STRING, y INT"


def config(path: Path, *, source: dict | None = None, **dataset: object) -> dict:
    declared = {"path": str(path), "format": "json", "columns": COLUMNS, **(source or {})}
    columns = {"label": "y", "age": "age", "sex": "sex"}
    table = {"name": "people", "kind": "tabular", "columns": columns, "source": declared, "group": None}
    return {"dataset": {**table, **dataset}}


def people(**counts: int) -> list[tuple]:
    """``a3=2``: two people of sex a and age 3; every third has a label of 1."""
    return [
        (int(name[1:]), name[0], int(int(name[1:]) % 3 == 0)) for name, n in counts.items() for _ in range(n)
    ]


def deliver(path: Path, table: list[tuple], format: str = "json") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ["age", "sex", "y"]
    if format == "parquet":
        columns = zip(*table, strict=True)
        pq.write_table(
            pa.table({name: list(column) for name, column in zip(names, columns, strict=True)}), path
        )
    elif format == "csv":
        write(path, ",".join(names), *[",".join(map(str, row)) for row in table])
    else:
        write(path, *[dict(zip(names, row, strict=True)) for row in table])
    return path


def held(ctx) -> Counter:
    table = rows(ctx.catalog.read("events"))
    assert len({row["event_id"] for row in table}) == len(table)
    return Counter((row["age"], row["sex"], row["label"]) for row in table)


@pytest.mark.parametrize("format", ["json", "csv", "parquet"])
def test_every_row_counts_and_the_same_again_adds_nothing(make_context, tmp_path: Path, format: str) -> None:
    first = people(a3=16, b4=1, c6=2, a5=1)
    wrong = [(9, "d", 7)] * 3  # rejected rows are rows too
    source = {"format": format, **({"options": {"header": "true"}} if format == "csv" else {})}
    if format == "parquet":
        source["columns"] = None

    def ingested(name: str, table: list[tuple]) -> dict[str, int]:
        made = config(deliver(tmp_path / name, table, format), source=source, tolerate=0.2)
        return ingest.run(make_context(made)).rows.as_dict()

    assert ingested("first", first + wrong) == {"read": 23, "kept": 20, "quarantined": 3, "duplicate": 0}
    ctx = make_context(config(tmp_path / "first", source=source))
    assert held(ctx) == Counter(first)
    assert ingested("again", wrong + first[::-1]) == {
        "read": 23,
        "kept": 0,
        "quarantined": 0,
        "duplicate": 23,
    }
    # one person more, and one who was there: of equal rows as many as the delivery that had most
    more = people(a3=17, b4=2, d1=1)
    assert ingested("more", more) == {"read": 20, "kept": 3, "quarantined": 0, "duplicate": 17}
    assert held(ctx) == Counter(first) | Counter(more)
    assert ctx.catalog.read("quarantine").count() == 3
    made = impressions.run(ctx)
    assert made.metrics["impressions"] == 23
    assert made.metrics["clicks"] == sum(n for row, n in (Counter(first) | Counter(more)).items() if row[2])


def test_with_a_key_equal_keys_are_duplicates(make_context, tmp_path: Path) -> None:
    file = deliver(tmp_path / "log.json", people(a3=16, b4=1))
    with pytest.raises(SourceError, match=r"15 of 17 records \(88.2 %\) have the dataset.event_key") as error:
        ingest.run(make_context(config(file, event_key=["age"])))
    assert "leave it out: every row of a table counts then" in error.value.remedy
    assert ingest.run(make_context(config(file))).rows.kept == 17


def test_deliveries_of_an_incremental_table_are_told_apart(make_context, tmp_path: Path, monkeypatch) -> None:
    """Killed after its rows are published, a delivery is not mixed with the next one."""
    folder = tmp_path / "log"
    parts = [people(a3=2, b4=1), people(a3=2, c1=3), people(a3=1, c1=4)]
    wanted = Counter()
    ctx = make_context(config(folder, source={"incremental": True}))
    for number, part in enumerate(parts):
        # a delivery of two files is one
        deliver(folder / f"{number}a.json", part[:1])
        deliver(folder / f"{number}b.json", part[1:])
        left, real = [number > 0], ingest.Landing.empty  # what the run before has left is removed

        def killed(self, left=left, real=real) -> None:
            if not left.pop():
                raise KeyboardInterrupt
            left.append(False)
            real(self)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(ingest.Landing, "empty", killed)
            ingest.run(ctx)
        wanted |= Counter(part)
        assert held(ctx) == wanted
    last = ingest.run(ctx)
    assert held(ctx) == wanted and last.rows.kept == 0
    assert ingest.run(ctx).skipped


def test_ids_do_not_depend_on_the_order_of_rows(make_context, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "one key for both roots")
    table, ids = people(a3=5, b4=3, c5=1), []
    for name, order in (("one", table), ("other", table[::-1])):
        ctx = make_context(config(deliver(tmp_path / f"{name}.json", order)), root=tmp_path / name)
        ingest.run(ctx)
        ids.append({row["event_id"] for row in rows(ctx.catalog.read("events"))})
    assert ids[0] == ids[1] and len(ids[0]) == 9
