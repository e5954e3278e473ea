"""The exported rows are those of the training set, in Parquet and libsvm alike, with weights for learners without offsets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_svmlight_file

from helpers.weighed_rows import SPEC, config, weighed
from sie_spark.export import export, folder
from sie_spark.export.layout import Layout, Place
from sie_spark.platform.config import Config
from sie_spark.platform.config.base import validate
from sie_spark.platform.context import Context
from sie_spark.platform.errors import ConfigError, PlatformError, RowIdentityError, StageOrderError
from sie_spark.platform.progress import Progress
from sie_spark.platform.root import Root

pytestmark = pytest.mark.spark
COLUMNS = list(range(Layout.of(SPEC, []).places[-1].last))


@pytest.fixture(scope="module")
def root(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Root:
    """Weighed rows of four arms; the tests only read them."""
    made = Root(tmp_path_factory.mktemp("weighed"))
    weighed(Context(validate(Config, config(), where="test"), made, Progress(quiet=True), spark))
    return made


@pytest.fixture
def without_evidence(root: Root, make_context: Any) -> Context:
    """No trees are fitted."""
    return make_context(config(evaluation={"yardstick_rows": 0}), root=Path(root.uri))


def parquet(out: Path, part: str) -> pd.DataFrame:
    return pq.read_table(out / f"{part}.parquet").to_pandas()


def libsvm(out: Path, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values [N, columns], labels and weights, of the files in the order of their names."""
    found = []
    for lines in sorted((out / f"{part}.libsvm").iterdir()):
        beside = out / f"{part}.libsvm.weight" / f"{lines.stem}.weight"
        values, label = load_svmlight_file(str(lines), n_features=len(COLUMNS), zero_based=False)
        found.append((values.toarray(), label, np.loadtxt(beside, ndmin=1)))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))  # type: ignore[return-value]


def dense(rows: pd.DataFrame, places: tuple[Place, ...]) -> np.ndarray:
    """What libsvm should hold of the rows of Parquet."""
    values = np.zeros((len(rows), len(COLUMNS)))
    for place in places:
        column = rows[place.column]
        for at, value in enumerate(column):
            if place.kind == "number":
                values[at, place.first - 1] = value
            elif place.kind == "vector":
                values[at, place.first - 1 : place.last] = value
            else:
                ids = [value] if place.kind == "category" else [one for one in value if one > 0]
                np.add.at(values[at], [place.first - 1 + one for one in ids], 1.0)
    return values


def by_id(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values("sample_id").reset_index(drop=True)


@pytest.mark.parametrize("arm", ["weighted", "inverse", "random", "emphasis"])
def test_both_forms_hold_the_rows_of_the_training_set(
    without_evidence: Context, tmp_path: Path, arm: str
) -> None:
    ctx, out = without_evidence, tmp_path / "out"
    result = export.run(ctx, out=str(out), arm=arm)
    kept = by_id(ctx.catalog.read("training_set").where(f"arm = '{arm}'").toPandas())
    rows = parquet(out, "train")
    assert result.rows is not None and result.rows.read == result.rows.kept == len(rows) == len(kept) > 0
    ordered = by_id(rows)
    for name in ("sample_id", "group_id", "request_id", "split", "event_date", "label", "offset"):
        assert (ordered[name] == kept[name]).all(), name
    assert set(ordered["split"]) == {"train", "validation"}
    for at, name in enumerate(("item", "city")):
        assert (ordered[name] == kept["cat"].str[at]).all()
    for at, name in enumerate(("price", "feature_weight")):  # 'weight' is the weight
        assert (ordered[name] == kept["dense"].str[at]).all()
    for name in ("tags", "recent", "image"):
        assert np.array_equal(np.stack(ordered[name]), np.stack(kept[name]))
    # one over the probability to be in the log and to be kept, whatever the arm's own fit corrects by
    inverse = 1 / (kept["pi"] * kept["sampling_rate"])
    expected = kept["weight"] / kept["sampling_rate"] if arm == "emphasis" else inverse
    np.testing.assert_allclose(ordered["weight"], expected, rtol=1e-6)
    np.testing.assert_allclose(ordered["offset_weight"], kept["weight"], rtol=1e-6)
    if arm == "weighted":
        assert (kept["offset"] > 0).any() and (kept["weight"] == 1).all()
    if arm != "emphasis":
        log = ctx.catalog.read("scores").selectExpr("sum(1 / sampling_rate)").first()
        assert log is not None and ordered["weight"].sum() == pytest.approx(log[0], rel=0.15)
    values, label, weight = libsvm(out, "train")
    order = pd.DataFrame({"label": label, "weight": weight})
    assert (order["label"] == rows["label"]).all()  # Parquet's files and those of libsvm have one order
    np.testing.assert_allclose(order["weight"], rows["weight"], rtol=1e-12)
    np.testing.assert_allclose(values, dense(rows, Layout.of(SPEC, []).places), rtol=1e-7)
    biased = [said for said in result.cautions if "is biased" in said]
    assert bool(biased) == (arm == "emphasis")


def test_test_rows_and_keys_come_along_and_the_file_says_what_is_what(
    without_evidence: Context, tmp_path: Path
) -> None:
    ctx, out = without_evidence, tmp_path / "out"
    export.run(ctx, out=str(out))
    samples = by_id(ctx.catalog.read("samples").where("split = 'test'").toPandas())
    rows = by_id(parquet(out, "test"))
    assert len(rows) == len(libsvm(out, "test")[1]) == 300
    np.testing.assert_allclose(rows["weight"], 1 / samples["sampling_rate"])
    assert (rows["offset"] == 0).all() and (rows["user_id"] == samples["key_user_id"]).all()
    assert rows["key_price"].isna().sum() == samples["key_price"].isna().sum() > 0  # 'price' is a feature
    said = json.loads((out / "export.json").read_text())
    assert said["arm"]["name"] == said["recommended"]["arm"] == "random" and not said["cautions"]
    assert "yardstick_rows is 0" in said["recommended"]["why"]
    assert set(said["columns"]) | {one["column"] for one in said["features"]} == set(rows.columns)
    assert [one["libsvm"] for one in said["features"]] == [
        *([1, 50], [51, 70], [71, 71], [72, 72], [73, 81], [82, 131], [132, 133])
    ]
    assert {one["name"]: one.get("ids") for one in said["features"]}["city"] == 20
    assert said["tables"] == {name: ctx.catalog.version(name) for name in ("training_set", "samples")}
    assert json.loads(Path(ctx.root.path(*folder.NOTED)).read_text())[str(out)] == said["tables"]
    lines = ctx.spark.read.format("libsvm").load(str(out / "test.libsvm"))  # as MLlib reads it
    assert lines.count() == 300


def test_the_evidence_recommends_and_warns(root: Root, make_context: Any, tmp_path: Path) -> None:
    ctx = make_context(config(arms={"full": None, "random": None}), root=Path(root.uri))
    result = export.run(ctx, out=str(tmp_path / "out"))
    said = result.details["evidence"]
    found = {one["arm"]: one for one in said["arms"]}
    assert set(found) == {"weighted", "random", "inverse", "emphasis"} and not said["absent"]
    assert result.details["arm"]["name"] == result.details["recommended"]["arm"]
    for name, one in found.items():
        assert 0.4 < one["auc"] < 1
        if name != "random":
            assert one["low"] <= one["difference"] <= one["high"]
            assert abs(one["random_rows"] - one["rows"]) < 0.15 * one["rows"]
    again = export.run(ctx, out=str(tmp_path / "out"))
    assert again.details == result.details


def test_a_folder_that_is_no_export_is_refused(without_evidence: Context, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(PlatformError, match="holds notes.txt, and is no export"):
        export.run(without_evidence, out=str(out))
    with pytest.raises(PlatformError, match="is a file"):
        export.run(without_evidence, out=str(out / "notes.txt"))
    (out / "export.json").write_text("{}")
    with pytest.raises(PlatformError, match="no export"):
        export.run(without_evidence, out=str(out))
    assert (out / "notes.txt").read_text() == "mine"
    with pytest.raises(PlatformError, match="--out"):
        export.run(without_evidence, out="x*")


def test_a_killed_export_is_not_taken_for_a_whole_one(
    without_evidence: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export.run(without_evidence, out=str(out), arm="inverse")
    whole = by_id(parquet(out, "train"))
    with monkeypatch.context() as patch:
        patch.setattr(export, "_check_rows", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export.run(without_evidence, out=str(out), arm="random")
    assert not (out / "export.json").exists()
    export.run(without_evidence, out=str(out), arm="inverse")
    pd.testing.assert_frame_equal(by_id(parquet(out, "train")), whole)
    assert (out / "export.json").exists() and not (out / folder.UNFINISHED).exists()
    assert not [file for file in out.rglob(".*") if file.suffix == ".part"]


def test_what_does_not_fit_is_refused_before_anything_is_written(
    root: Root, make_context: Any, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    ctx = make_context(config(), root=Path(root.uri))
    with pytest.raises(ConfigError, match="no rows of that arm") as wrong:
        export.run(ctx, out=out, arm="full")
    assert "weighted" in wrong.value.remedy
    other = make_context(config(report={"key": ["session_id"]}), root=Path(root.uri))
    with pytest.raises(StageOrderError, match="session_id"):
        export.run(other, out=out)
    told = ctx.load_details("weigh")
    try:
        ctx.save_details("weigh", {**told, "encoder": "another"})
        with pytest.raises(StageOrderError, match="encoder another"):
            export.run(ctx, out=out)
        ctx.save_details("weigh", {**told, "arms": {**told["arms"], "inverse": {"policy_version": "older"}}})
        with pytest.raises(StageOrderError, match="cut short"):
            export.run(ctx, out=out)
    finally:
        ctx.save_details("weigh", told)
    assert not Path(out).exists()


def test_rows_that_go_missing_are_noticed(
    without_evidence: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_write", lambda *_, **__: 1)
    with pytest.raises(RowIdentityError, match="1 were exported"):
        export.run(without_evidence, out=str(tmp_path / "out"))
