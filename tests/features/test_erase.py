"""A value that is to be forgotten leaves vocabularies in JSON and in Parquet; every other id stays."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers.encoders import current, keep
from helpers.impressions_table import vocabulary
from sie_spark.features.encoder import Encoder
from sie_spark.features.erase import erase_value
from sie_spark.features.identifiers import Category
from sie_spark.features.vocabulary import Vocabulary
from sie_spark.platform.errors import ModelError
from sie_spark.platform.root import Root


def test_a_value_leaves_inline_and_side_vocabularies(tmp_path: Path) -> None:
    root = Root(tmp_path)
    names = ["ann", "bob", "cy"]
    folder = vocabulary(tmp_path / "encoders", names)
    (folder / ".part-0.parquet.crc").write_bytes(b"of the file as it was")
    draft = folder.parent / "draft" / "far" / "part-0.parquet"  # of an encode that was killed
    draft.parent.mkdir(parents=True)
    draft.write_bytes(b"bob")
    inline, side = (
        Vocabulary(4, tuple(names)),
        Vocabulary(4, None, f"vocabulary/{folder.name}", str(tmp_path / "encoders")),
    )
    features = tuple(Category(name, name, "string", ids) for name, ids in (("near", inline), ("far", side)))
    fingerprint, _ = keep(Encoder(features), root)

    assert erase_value(root, "nobody") == []
    assert erase_value(root, "bob") == [fingerprint]
    held = current(root)
    assert held is not None
    for value, identifier in (("ann", 1), ("bob", 0), ("cy", 3)):
        assert held.transform_row({"near": value, "far": value})["cat"] == [identifier] * 2
    assert "bob" not in json.dumps(held.as_dict())
    assert "bob" not in pq.read_table(folder / "part-0.parquet")["value"].to_pylist()
    assert not list(folder.glob(".*.crc")) and not draft.exists()
    assert erase_value(root, "bob") == []


def test_an_artefact_is_the_one_that_was_left(tmp_path: Path) -> None:
    root = Root(tmp_path)
    _, path = keep(Encoder((Category("c", "c", "string", Vocabulary(4, ("ann", "bob", "cy"))),)), root)
    file = Path(path)
    for name in ("bob", "cy"):
        assert erase_value(root, name)
        assert Encoder.load(file).transform_row({"c": "ann"})["cat"] == [1]
    left = file.read_text()
    file.write_text(left.replace('"ann"', '"eve"'))
    for _ in range(2):
        with pytest.raises(ModelError, match="is damaged"):
            Encoder.load(file)
        erase_value(root, "eve")  # and does not make it right
    earlier = json.loads(left)  # of a version that did not say what it left
    del earlier["left_by_forget"]
    file.write_text(json.dumps(earlier))
    assert Encoder.load(file).transform_row({"c": "ann"})["cat"] == [1]
    assert erase_value(root, "ann") and Encoder.load(file)
