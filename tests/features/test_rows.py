"""A row encoded without Spark has the bits of the row that Spark encoded."""

import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from helpers.encoders import current, keep
from helpers.impressions_table import FEATURES, frame, rows
from sie_spark.features.encoder import FORMAT_VERSION, Encoder
from sie_spark.features.fit import Training, fit
from sie_spark.features.resolve import resolve
from sie_spark.platform.config import Feature
from sie_spark.platform.errors import ModelError
from sie_spark.platform.root import Root

pytestmark = pytest.mark.spark


def fitted(
    spark: Any, root: Root, data: list[dict[str, Any]], features: Any = FEATURES, inline: int = 20_000
) -> Encoder:
    train = frame(spark, data)
    resolved = resolve([Feature(**feature) for feature in features], train)
    return fit(Training(train, len(data), root, inline), resolved)


@pytest.fixture(scope="module")
def encoders(spark: Any, tmp_path_factory: Any) -> list[Encoder]:
    """Small vocabularies in the plan, and the same ones in Parquet and joined."""
    root = Root(tmp_path_factory.mktemp("root"))
    data = rows(600)
    more = [
        f if f["kind"] != "vector" else {"column": "image", "kind": "vector", "size": 6} for f in FEATURES
    ]
    return [fitted(spark, root, data), fitted(spark, root, data, more, inline=5)]


def test_no_draft_of_a_vocabulary_stays(encoders: list[Encoder]) -> None:
    large = [
        ids for f in encoders[1].features if (ids := getattr(f, "ids", None)) and ids.as_dict().get("path")
    ]
    assert large
    for ids in large:
        folder = Path(ids.base) / "vocabulary"
        assert (folder.parent / ids.path).is_dir()
        assert not list(folder.glob("draft*/*")) and not list(folder.glob("draft-*"))


def same_bits(spark: Any, encoder: Encoder, data: list[dict[str, Any]]) -> None:
    names = {feature.name: feature.expression.strip("`") for feature in encoder.features}
    encoded = encoder.transform(frame(spark, data), keep=["impression_id"]).collect()
    assert len(encoded) == len(data)
    by_id = {row["impression_id"]: row for row in encoded}
    for row in data:
        ours = encoder.transform_row({name: row[column] for name, column in names.items()})
        for name, values in ours.items():
            theirs = by_id[row["impression_id"]][name]
            assert np.asarray(theirs, np.float64).tobytes() == np.asarray(values, np.float64).tobytes(), (
                name,
                row,
            )


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
items = st.one_of(st.none(), words, st.integers(1, 99).map(lambda n: f"item{n}"))
floats32 = st.floats(width=32)
row = st.fixed_dictionaries(
    {
        "user_id": st.one_of(st.none(), words),
        "item_id": items,
        "position": st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1), st.integers(0, 12)),
        "price": st.one_of(st.none(), st.floats(), st.floats(0, 300)),
        "title": st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=60)),
        "tags": st.one_of(st.none(), st.lists(st.one_of(st.none(), words, st.just("pool")), max_size=6)),
        "recent_items": st.one_of(st.none(), st.lists(items, max_size=6)),
        "image": st.one_of(
            st.none(),
            st.lists(floats32, min_size=6, max_size=6),
            st.lists(st.one_of(st.none(), floats32), max_size=7),
            st.lists(st.floats(-9, 9, width=32), min_size=6, max_size=6),
        ),
    }
)


@settings(
    max_examples=10,
    deadline=None,
    phases=[
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ],  # a Spark job an example: shrinking would take minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(drawn=st.lists(row, min_size=1, max_size=40))
def test_any_row_has_the_same_bits(spark: Any, encoders: list[Encoder], drawn: list[dict[str, Any]]) -> None:
    base = rows(1)[0]
    data = [{**base, **values, "impression_id": f"h{at}"} for at, values in enumerate(drawn)]
    for encoder in encoders:
        same_bits(spark, encoder, data)


def test_training_rows_have_the_same_bits(spark: Any, encoders: list[Encoder]) -> None:
    for encoder in encoders:
        same_bits(spark, encoder, rows(600))


def test_long_vectors_add_in_the_order_of_spark(spark: Any, tmp_path: Any) -> None:
    draw = np.random.default_rng(4)
    size = 37  # four whole blocks and a rest
    train = spark.createDataFrame(
        [
            (f"i{at}", [float(np.float32(v)) for v in draw.normal(size=size) * 10 ** draw.uniform(-6, 6)])
            for at in range(300)
        ],
        "impression_id string, image array<float>",
    )
    feature = resolve([Feature(column="image", kind="vector", size=size, components=7)], train)
    encoder = fit(Training(train, 300, Root(tmp_path)), feature)
    for raw, ours in ((r["image"], r) for r in train.collect()):
        del ours
        assert len(encoder.transform_row({"image": raw})["image"]) == 7
    found = encoder.transform(train, keep=["impression_id"]).join(
        train.withColumnRenamed("image", "raw"), "impression_id"
    )
    for row in found.collect():
        ours = encoder.transform_row({"image": row["raw"]})["image"]
        assert np.asarray(ours).tobytes() == np.asarray(row["image"]).tobytes()


def test_round_trip_through_files(spark: Any, encoders: list[Encoder], tmp_path: Any) -> None:
    for encoder in encoders:
        root = Root(tmp_path)
        _, path = keep(encoder, root)
        again = Encoder.from_dict(json.loads(json.dumps(encoder.as_dict())), where=_base(encoder))
        assert again == encoder
        assert again.inputs == encoder.inputs
        assert Encoder.load(path).as_dict() == encoder.as_dict()
        assert current(root) is not None


def _base(encoder: Encoder) -> str:
    bases = {getattr(getattr(f, "ids", None), "base", "") for f in encoder.features} - {""}
    return f"{bases.pop()}/x.json" if bases else "x.json"


def test_other_formats_and_other_files_are_refused(encoders: list[Encoder], tmp_path: Any) -> None:
    for format in (FORMAT_VERSION + 1, FORMAT_VERSION - 1):
        other = {**encoders[0].as_dict(), "format_version": format}
        with pytest.raises(ModelError, match=f"format {format}; this version reads format {FORMAT_VERSION}"):
            Encoder.from_dict(other)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ModelError, match="not an encoder"):
        Encoder.load(str(tmp_path / "x.json"))
    with pytest.raises(ModelError, match="while reading"):
        Encoder.load(str(tmp_path / "none.json"))


def test_a_row_needs_no_spark(encoders: list[Encoder], tmp_path: Any) -> None:
    _, path = keep(encoders[0], Root(tmp_path))
    code = f"""
        import sys, json
        sys.modules["pyspark"] = None
        from sie_spark.features.encoder import Encoder
        row = Encoder.load({path!r}).transform_row({{"item_id": "item1", "price": 3.5, "title": "Hotel am See"}})
        print(json.dumps(row))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    row = json.loads(done.stdout)
    assert row == encoders[0].transform_row({"item_id": "item1", "price": 3.5, "title": "Hotel am See"})
    assert row["cat"][0] > 0
    assert all(math.isfinite(value) for value in row["dense"])
