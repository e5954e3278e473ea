"""A vocabulary that was changed by hand is refused; one that 'sie forget' changed is not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.encoders import current, keep
from helpers.impressions_table import vocabulary
from sie_spark.features import erase
from sie_spark.features.contents import ERASED, Content, content_of
from sie_spark.features.encoder import Encoder
from sie_spark.features.fit import Training, fit
from sie_spark.features.identifiers import Category
from sie_spark.features.resolve import resolve
from sie_spark.features.vocabulary import Vocabulary
from sie_spark.platform.config import Feature
from sie_spark.platform.errors import ModelError
from sie_spark.platform.root import Root

NAMES = ["ann", "bob", "cy"]


def encoder(folder: Path) -> Encoder:
    """Anew, so that nothing read before is known."""
    ids = Vocabulary(4, None, f"vocabulary/{folder.name}", str(folder.parents[1]))
    return Encoder((Category("c", "c", "string", ids),))


def change(folder: Path, **columns: Any) -> None:
    file = folder / "part-0.parquet"
    table = pq.read_table(file)
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    pq.write_table(table, file)


def refused(folder: Path, said: str = "its values are not those") -> None:
    with pytest.raises(ModelError, match=rf"vocabulary .*{folder.name}: {said}") as error:
        encoder(folder).transform_row({"c": "bob"})
    assert "sie encode --set run.force=true" in error.value.remedy


def test_values_changed_by_hand_are_refused(tmp_path: Path) -> None:
    folder = vocabulary(tmp_path, NAMES)
    assert encoder(folder).transform_row({"c": "bob"})["cat"] == [2]
    change(folder, value=["ann", "bob", "dan"])
    refused(folder)
    change(folder, value=NAMES, id=[1, 3, 2])
    refused(folder)
    change(folder, id=[1, 2, 3])  # whole again, though another program wrote it
    assert encoder(folder).transform_row({"c": "bob"})["cat"] == [2]


def test_rows_that_are_lost_or_stand_twice_are_refused(tmp_path: Path) -> None:
    folder = vocabulary(tmp_path, NAMES)
    shutil.copy(folder / "part-0.parquet", folder / "part-1.parquet")
    shutil.copy(folder / "part-0.parquet", folder / "part-2.parquet")  # thrice: the same bits as once
    refused(folder, "its values.*9 values, 3 expected")
    for part in (1, 2):
        (folder / f"part-{part}.parquet").unlink()
    pq.write_table(pq.read_table(folder / "part-0.parquet").slice(0, 2), folder / "part-0.parquet")
    refused(folder, "its values.*2 values, 3 expected")


def test_what_was_forgotten_is_no_change_by_hand(tmp_path: Path, monkeypatch: Any) -> None:
    folder = vocabulary(tmp_path / "encoders", NAMES)
    root = Root(tmp_path)
    fingerprint, _ = keep(encoder(folder), root)

    def ids() -> list[int]:
        found = current(root)
        assert found is not None
        return [found.transform_row({"c": name})["cat"][0] for name in NAMES]

    with monkeypatch.context() as patch:  # killed before the file is written
        patch.setattr(erase.pq, "write_table", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            erase.erase_value(root, "bob")
    assert ids() == [1, 2, 3]
    assert erase.erase_value(root, "bob") == erase.erase_value(root, "cy") == [fingerprint]
    assert ids() == [1, 0, 0]
    assert len(json.loads((folder / ERASED).read_text())) == 3
    other = Root(tmp_path / "other")
    keep(Encoder.load(root.path("encoders", f"{fingerprint}.json")), other)  # what was said goes with it
    moved = current(other)
    assert moved is not None and moved.transform_row({"c": "ann"})["cat"] == [1]
    copied = tmp_path / "other" / "encoders" / "vocabulary" / folder.name
    change(copied, value=["dan", *pq.read_table(copied / "part-0.parquet")["value"].to_pylist()[1:]])
    refused(copied)

    (folder / ERASED).unlink()  # as an earlier version left it
    assert ids() == [1, 0, 0]
    assert erase.erase_value(root, "ann") == [fingerprint] and ids() == [0, 0, 0]


def test_forgetting_does_not_bless_a_change_by_hand(tmp_path: Path) -> None:
    folder = vocabulary(tmp_path / "encoders", NAMES)
    keep(encoder(folder), Root(tmp_path))
    change(folder, value=["ann", "bob", "dan"])
    assert erase.erase_value(Root(tmp_path), "bob")
    refused(folder)


@pytest.mark.spark
def test_spark_refuses_the_same_and_names_it_as_the_fit_does(spark: Any, tmp_path: Path) -> None:
    texts = [text for at in range(9) for text in (f"w{at}", "é" * at, "x" * (at * 7))]
    rows = [(f"i{at}", text) for at, text in enumerate(texts * 2)]
    train = spark.createDataFrame(rows, "impression_id string, c string")
    features = resolve([Feature(column="c", kind="category", min_count=1)], train)
    made = fit(Training(train, len(rows), Root(tmp_path), inline=3), features)
    folder = Path(made.features[0].ids.uri)  # type: ignore[union-attr]
    file = next(folder.glob("*.parquet"))
    table = pq.read_table(file)
    assert content_of(table) == Content(len(set(texts)), folder.name, 0)
    found = [row["cat"][0] for row in made.transform(train, keep=["impression_id"]).collect()]
    assert set(found) == set(range(1, len(set(texts)) + 1))
    values = table["value"].to_pylist()
    swapped = pa.array([*values[1::-1], *values[2:]])
    pq.write_table(table.set_column(table.schema.get_field_index("value"), "value", swapped), file)
    with pytest.raises(
        ModelError, match=f"vocabulary .*{folder.name}.*: is not a readable Parquet file"
    ):  # Hadoop's own
        made.transform(train)
    (folder / f".{file.name}.crc").unlink()  # as after a copy through an object store
    with pytest.raises(ModelError, match=f"{folder.name}: its values are not those"):
        made.transform(train)

    again = fit(Training(train, len(rows), Root(tmp_path), inline=3), features)  # writes it anew
    assert again == made
    assert [row["cat"][0] for row in again.transform(train, keep=["impression_id"]).collect()] == found
