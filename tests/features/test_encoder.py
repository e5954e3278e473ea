"""The artefact on its own: what rows may hold, what a damaged file is told, and where its vocabularies lie."""

import datetime as dt
import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from helpers.encoders import current, keep
from helpers.impressions_table import vocabulary
from sie_spark.features.blocks import blocks_of
from sie_spark.features.encoder import FORMAT_VERSION, Encoder
from sie_spark.features.identifiers import Category, IdList
from sie_spark.features.numbers import Number
from sie_spark.features.vectors import Vector
from sie_spark.features.vocabulary import Hashed, Vocabulary
from sie_spark.platform.errors import DataError, ModelError
from sie_spark.platform.root import Root

LARGE = 2**53 + 1  # no double
MISSING = (None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), Decimal("NaN"))


def encoder() -> Encoder:
    """One feature of each kind, hashed."""
    ids = Hashed(100_003)
    return Encoder(
        (
            Category("id", "id", "bigint", ids),
            Category("flag", "flag", "boolean", ids),
            Category("day", "day", "date", ids),
            Number("x", "x"),
            IdList("bag", "bag", "bigint", ids, 3, "bag"),
            IdList("text", "text", "string", ids, 3, "text"),
            Vector("v", "v", 2),
        )
    )


def side(folder: Path) -> Encoder:
    """Three values in Parquet beside an artefact that is not written yet."""
    lies = vocabulary(folder / "encoders", ["a", "b", "c"])
    (lies / "_SUCCESS").touch()
    ids = Vocabulary(4, None, f"vocabulary/{lies.name}", str(lies.parents[1]))
    return Encoder((Category("c", "c", "string", ids),))


def test_values_of_numpy_and_pandas_are_those_of_python() -> None:
    row = encoder().transform_row
    base = {
        "id": LARGE,
        "flag": True,
        "day": dt.date(2024, 3, 1),
        "x": 3.5,
        "bag": [LARGE, 5],
        "v": [1.5, 2.0],
    }
    plain = row(base)
    late = dt.timezone(dt.timedelta(hours=-3))
    for name, same in (
        ("id", [np.int64(LARGE), np.array(LARGE), Decimal(LARGE), str(LARGE)]),
        ("flag", [np.bool_(True), pd.Series([True])[0]]),
        (
            "day",
            [pd.Timestamp("2024-03-01"), np.datetime64("2024-03-01"), np.datetime64("2024-03-01T10", "ns")],
        ),
        ("day", [dt.datetime(2024, 2, 29, 23, tzinfo=late), "2024-03-01"]),
        ("x", [np.float32(3.5), np.float64(3.5), Decimal("3.5"), np.array(3.5)]),
        (
            "bag",
            [np.array([LARGE, 5]), (LARGE, None, 5), pd.Series([LARGE, 5]), [LARGE, pd.NA, 5, float("nan")]],
        ),
        ("v", [np.array([1.5, 2.0]), np.array([1.5, 2], object), [Decimal("1.5"), np.int8(2)]]),
    ):
        for value in same:
            assert row({**base, name: value}) == plain, (name, value)
    nothing = row({})
    assert row(dict.fromkeys(base, None) | {"of no feature": 1}) == nothing
    for value in MISSING:
        assert row({feature.name: value for feature in encoder().features}) == nothing, value
    zeros = row({"x": Decimal("-0"), "v": [Decimal("-0.0"), 0]})
    assert str([zeros["dense"], zeros["v"]]) == "[[0.0], [0.0, 0.0]]"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("id", [[1], {"a": 1}, b"1", 1j, dt.datetime(2024, 3, 1), np.array([1])]),
        ("day", [dt.timedelta(1), (dt.date(2024, 3, 1),)]),
        ("x", ["3.5", (1,), dt.date(2024, 3, 1), 1j, 10**400, np.array([1.0]), np.datetime64("2024-03-01")]),
        ("bag", ["a", 5, {"a": 1}, [[1]], np.array([[1]])]),
        ("text", [5, ["a"], True]),
        ("v", ["ab", 5, ["1", "2"], {1: 2, 3: 4}, [[1], [2]], np.ones((2, 1)), [10**400, 1], [1j, 2]]),
    ],
)
def test_values_of_the_wrong_kind_are_named(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(
            DataError, match=f"'{name}' is a .*, but the row has {type(value).__name__} "
        ) as error:
            encoder().transform_row({name: value})
        assert error.value.remedy


def test_damaged_artefacts_are_refused_by_name(tmp_path: Path) -> None:
    good = json.loads(json.dumps(encoder().as_dict()))
    assert Encoder.from_dict(good) == encoder()

    def changed(at: int, **more: Any) -> dict[str, Any]:
        states = [dict(state) for state in good["features"]]
        states[at] = {name: value for name, value in {**states[at], **more}.items() if value is not ...}
        return {**good, "features": states}

    for data, said in (
        ([], "not an encoder"),
        ({**good, "format_version": 0}, "not an encoder"),
        ({**good, "format_version": True}, "not an encoder"),
        ({"format_version": FORMAT_VERSION}, "field 'features' is NoneType"),
        ({**good, "fitted": 5}, "field 'fitted' is int"),
        ({**good, "features": [7]}, "feature 7: 'int'"),
        (changed(3, foo=1), "feature 'x': got an unexpected keyword argument 'foo'"),
        (changed(3, kind=...), "feature 'x': field 'kind' is missing"),
        (changed(3, kind="sound"), "feature 'x': unknown kind 'sound'"),
        (
            changed(0, ids={"size": 9, "values": ["a"], "path": None}),
            "feature 'id': a vocabulary of 8 values",
        ),
        (changed(0, ids=...), "feature 'id': field 'ids' is missing"),
        (changed(6, loadings=5), "feature 'v': 'int' object"),
    ):
        path = tmp_path / "x.json"
        path.write_text(json.dumps(data))
        with pytest.raises(ModelError, match=f"x.json is (damaged: )?{said}") as error:
            Encoder.load(path)
        assert error.value.remedy


def test_a_file_that_holds_other_values_than_were_written_is_refused(tmp_path: Path) -> None:
    path = Path(encoder().write(Root(tmp_path)))
    good = path.read_text()
    assert Encoder.load(path) == encoder()
    for was, now in (
        ('"mean": 0.0', '"mean": 1.5'),
        ('"mean": 0.0, ', ""),
        ('"transform": "none"', '"transform": "lgo"'),
        ('"hash_size": 100003', '"hash_size": 1e999'),
        ('"fitted": {}', '"fitted": {"rows": 5}'),
    ):
        assert was in good
        path.write_text(good.replace(was, now))
        with pytest.raises(ModelError, match="is damaged: ") as error:
            Encoder.load(path)
        assert "copy it again" in error.value.remedy


def test_vocabularies_go_with_their_artefact(tmp_path: Path, monkeypatch: Any) -> None:
    made = side(tmp_path / "one")
    name, path = keep(made, Root(tmp_path / "one"))
    other = Root(tmp_path / "two")
    assert keep(Encoder.load(Path(path)), other) == (name, other.path("encoders", f"{name}.json"))
    monkeypatch.chdir(tmp_path / "one" / "encoders")
    bare = Encoder.load(f"{name}.json")
    monkeypatch.chdir(tmp_path)
    again = json.loads(json.dumps(made.as_dict()))
    shutil.copytree(tmp_path / "two", tmp_path / "three")
    moved = current(Root(tmp_path / "three"))
    for found in (bare, current(other), moved, Encoder.from_dict(again, where=path)):
        assert found is not None and found.is_whole
        assert [found.transform_row({"c": value})["cat"] for value in ("a", "c", "z")] == [[1], [3], [0]]
    with pytest.raises(DataError, match="where that lies is not known") as error:
        Encoder.from_dict(again).transform_row({"c": "a"})
    assert "where=path" in error.value.remedy
    shutil.rmtree(tmp_path / "three" / "encoders" / "vocabulary")
    lost = current(Root(tmp_path / "three"))
    assert lost is not None and not lost.is_whole
    with pytest.raises(DataError, match="vocabulary/[0-9a-f]{16}: FileNotFoundError while reading"):
        lost.transform_row({"c": "a"})


def indicated() -> Encoder:
    """Two vectors that say where they were missing, with a number between them."""
    components = Vector("w", "w", 3, ((0.5, 0.0, 1.0),), (0.25,), indicator=True)
    return Encoder((Vector("v", "v", 2, indicator=True), Number("x", "x"), components, Vector("z", "z", 1)))


def test_a_vector_says_where_it_was_missing(tmp_path: Path) -> None:
    made = indicated()
    assert made.inputs.numbers == ("v_missing", "x", "w_missing")
    assert made.inputs.vectors == {"v": 2, "w": 1, "z": 1}
    whole = {"v": [1.0, 2.0], "x": 3.0, "w": [1.0, 2.0, 3.0]}
    assert made.transform_row(whole)["dense"] == [0.0, 3.0, 0.0]
    for missing in (None, [], [1.0], [1.0, None], [1.0, float("nan")], [1.0, 1e39]):
        row = made.transform_row({**whole, "v": missing})
        assert (row["dense"], row["v"]) == ([1.0, 3.0, 0.0], [0.0, 0.0]), missing
    assert made.transform_row({})["dense"] == [1.0, 0.0, 1.0]
    _, path = keep(made, Root(tmp_path))
    again = Encoder.load(path)
    assert again == made and again.fingerprint == made.fingerprint
    blocks = blocks_of(pa.Table.from_pylist([made.transform_row(whole), made.transform_row({})]), made)
    assert [block.values.tolist() for block in blocks] == [
        *([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]], [[3.0], [0.0]], [[3.25, 0.0], [0.0, 1.0]], [[0.0], [0.0]])
    ]


@pytest.mark.spark
def test_a_row_is_what_spark_makes_of_it(spark: Any) -> None:
    """Names that could meet in joins, exact decimals, and expressions in a session of other settings."""
    words = tuple(f"w{at}" for at in range(60))  # more than are looked up without a join
    decimals = [str(LARGE), str(LARGE - 1), str(2**64 - 1), "-0", "-7", "5.0", "5.25", "-5.25", f"{LARGE}.0"]
    decimals += ["12345678901234567890123456789.5", "1234567890123456789.25", "0.0000004"]
    exact = [Decimal(text).quantize(Decimal(1)) if "." not in text else None for text in decimals]
    data = [
        {
            "at": at,
            "w": words[at],
            "tags": list(words[at : at + 4]),
            "d": Decimal(text),
            "d0": exact[at],
            "t": "1,5",
            "v": (None, [], [1.0, None], [1.0, float("nan")], [float(at), 1e39], [0.1, at + 0.3])[at % 6],
        }
        for at, text in enumerate(decimals)
    ]
    schema = (
        "at int, w string, tags array<string>, d decimal(38,7), d0 decimal(20,0), t string, v array<double>"
    )
    hashed = Hashed(1_000_003)
    types = {"d": "decimal(38,7)", "d0": "decimal(20,0)"}
    made = Encoder(
        (
            IdList("tags", "tags", "string", Vocabulary(61, words), 4, "bag"),
            Category("tags_0", "w", "string", Vocabulary(61, words)),
            Category("Tags_0", "w", "string", Hashed(99)),
            *(Category(name, name, type_name, hashed) for name, type_name in types.items()),
            *(Number(f"n_{name}", name, limited=False, indicator=True) for name in types),
            Number("cast", "cast(t as double)", indicator=True),
            Vector("v", "v", 2, indicator=True),
            Vector("w", "v", 2, ((0.3, 0.7),), (0.1,), indicator=True),
            Number("ratio", "1 / (at - 1)", indicator=True),
            Category("hour", "hour(timestamp'2024-03-01T00:30:00Z' + make_interval(0))", "int", hashed),
        )
    )
    frame = spark.createDataFrame(data, schema)
    before = {name: spark.conf.get(name) for name in ("spark.sql.ansi.enabled", "spark.sql.session.timeZone")}
    try:
        spark.conf.set("spark.sql.ansi.enabled", "true")
        spark.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
        encoded = made.transform(frame, keep=["at"])
        stored = {row["at"]: row.asDict() for row in encoded.collect()}
        assert spark.conf.get("spark.sql.session.timeZone") == "Asia/Tokyo"
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)
    for row in data:
        at = row["at"]
        ratio = None if at == 1 else 1 / (at - 1)
        given = {**row, "tags_0": row["w"], "Tags_0": row["w"], "hour": 0, "ratio": ratio, "w": row["v"]}
        given |= {"n_d": row["d"], "n_d0": row["d0"]}
        ours = made.transform_row(given)
        for name, values in ours.items():
            assert np.asarray(stored[at][name], float).tobytes() == np.asarray(values, float).tobytes(), (
                name,
                row,
            )
    assert [stored[at]["dense"][6] for at in range(6)] == [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    ids = [stored[at]["cat"][3] for at in range(5)]
    assert len(set(ids)) == 5  # three that are one as doubles, or none
