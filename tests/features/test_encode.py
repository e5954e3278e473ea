"""The stage: split, labels, leakage, idempotence, and what bad input is told."""

import datetime as dt
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from helpers.encoders import current
from helpers.impressions_table import FEATURES, START, rows, settings, store
from sie_spark.features import encode
from sie_spark.features import samples as encoded_samples
from sie_spark.features.hashing import hash_id, xxhash64
from sie_spark.platform.errors import ConfigError, DataError, StageOrderError
from sie_spark.platform.root import read_bytes

pytestmark = pytest.mark.spark
PLAIN = [feature for feature in FEATURES if feature["kind"] in ("category", "number")]


@pytest.fixture(scope="module")
def encoded(spark: Any, tmp_path_factory: Any) -> Any:
    """One run of the stage over the small table, shared by the tests that only look."""
    from sie_spark.platform.config import Config
    from sie_spark.platform.config.base import validate
    from sie_spark.platform.context import Context
    from sie_spark.platform.progress import Progress
    from sie_spark.platform.root import Root

    root = Root(tmp_path_factory.mktemp("encoded"))
    ctx = Context(validate(Config, settings(), where="test"), root, Progress(quiet=True), spark)
    store(ctx, rows())
    return ctx, encode.run(ctx)


def stored(ctx: Any) -> dict[int, dict[str, Any]]:
    return {row["sample_id"]: row.asDict() for row in ctx.catalog.read("samples").collect()}


def test_every_row_arrives_with_its_columns(encoded: Any) -> None:
    ctx, result = encoded
    samples = stored(ctx)
    assert (result.rows.read, result.rows.kept) == (400, 400)
    spec = current(ctx.root).inputs
    for row in rows():
        sample = samples[xxhash64(row["impression_id"].encode())]
        assert sample["group_id"] == xxhash64(row["group_key"].encode())
        assert (sample["label"], sample["position"], sample["event_date"]) == (
            *(row["label"], row["position"], row["event_date"]),
        )
        assert len(sample["cat"]) == 3
        assert len(sample["dense"]) == len(spec.numbers)
        assert (
            len(sample["tags"]),
            len(sample["title"]),
            len(sample["recent_items"]),
            len(sample["image"]),
        ) == (3, 6, 4, 3)
    schema = dict(ctx.catalog.read("samples").dtypes)
    assert (schema["cat"], schema["dense"], schema["label"], schema["sampling_rate"]) == (
        *("array<int>", "array<float>", "float", "float"),
    )


def test_the_cut_is_the_exact_percentile(encoded: Any) -> None:
    ctx, result = encoded
    seconds = np.array([int(row["event_ts"].timestamp()) for row in rows()])
    cut = int(np.ceil(np.percentile(seconds, 80)))
    assert result.details["split"]["seconds"] == cut
    for row in rows():
        sample = stored_row(ctx, row)
        assert sample["split"] == ("train" if row["event_ts"].timestamp() < cut else "test")


_CACHE: dict[int, dict[int, dict[str, Any]]] = {}


def stored_row(ctx: Any, row: dict[str, Any]) -> dict[str, Any]:
    samples = _CACHE.setdefault(id(ctx), {}) or _CACHE[id(ctx)]
    if not samples:
        samples.update(stored(ctx))
    return samples[xxhash64(row["impression_id"].encode())]


def test_ids_and_moments_by_hand(encoded: Any) -> None:
    """An independent fit: counters and numpy over the training rows."""
    ctx, result = encoded
    cut = result.details["split"]["seconds"]
    train = [row for row in rows() if row["event_ts"].timestamp() < cut]
    counts = Counter("<missing>" if row["item_id"] is None else row["item_id"] for row in train)
    ordered = sorted((name for name, n in counts.items() if n >= 2), key=lambda name: (-counts[name], name))
    ids = {name: at for at, name in enumerate(ordered, start=1)}
    prices = [row["price"] for row in train if row["price"] is not None and np.isfinite(row["price"])]
    logs = np.log1p(np.array(prices))
    spec = current(ctx.root).inputs
    assert spec.categories == {"item_id": len(ids) + 1, "user_id": 64, "place": 11}
    prices_of = ("price", "price_missing", "price_rank", "price_rank_missing")
    assert spec.numbers == (*prices_of, "position", "image_missing")
    assert spec.sequences == {"recent_items": (len(ids) + 1, 4)}
    assert spec.shares == {"recent_items": "item_id"}
    for row in rows():
        sample = stored_row(ctx, row)
        item = "<missing>" if row["item_id"] is None else row["item_id"]
        assert sample["cat"][0] == ids.get(item, 0)
        assert sample["cat"][1] == hash_id(row["user_id"], 64)
        recent = [ids.get(name, 0) for name in row["recent_items"][:4]]
        assert sample["recent_items"] == recent + [0] * (4 - len(recent))
        if row["price"] is not None and np.isfinite(row["price"]):
            expected = (np.log1p(row["price"]) - logs.mean()) / logs.std()
            assert abs(sample["dense"][0] - expected) < 1e-4
            assert sample["dense"][1] == 0.0
            assert abs(sample["dense"][2] - np.mean(np.array(prices) <= row["price"])) < 0.03
        else:
            assert (sample["dense"][0], sample["dense"][1], sample["dense"][3]) == (0.0, 1.0, 1.0)


def test_components_are_those_of_scikit_learn(encoded: Any) -> None:
    from sklearn.decomposition import PCA

    ctx, result = encoded
    usable = [r for r in rows() if r["image"] is not None and np.isfinite(r["image"]).all()]
    cut = result.details["split"]["seconds"]
    train = np.array([r["image"] for r in usable if r["event_ts"].timestamp() < cut], dtype=np.float32)
    pca = PCA(3).fit(train.astype(np.float64))
    theirs = pca.transform(np.array([r["image"] for r in usable])) / np.sqrt(pca.explained_variance_[0])
    ours = np.array([stored_row(ctx, r)["image"] for r in usable])
    for k in range(3):
        assert min(np.abs(ours[:, k] - theirs[:, k]).max(), np.abs(ours[:, k] + theirs[:, k]).max()) < 1e-4
    unusable = next(r for r in rows() if r["image"] is not None and not np.isfinite(r["image"]).all())
    assert stored_row(ctx, unusable)["image"] == [0.0, 0.0, 0.0]


def test_the_fit_never_sees_test_rows(make_context: Any, encoded: Any, tmp_path: Any) -> None:
    """Everything about the test rows but their time is replaced: the artefact stays the same, byte for byte."""
    ctx, result = encoded
    cut = result.details["split"]["seconds"]
    data = rows()
    for at, row in enumerate(data):
        if row["event_ts"].timestamp() >= cut:
            more = {
                "item_id": f"future{at % 3}",
                "price": 1e6,
                "title": "zzz",
                "tags": ["late"],
                "user_id": "late",
            }
            data[at] = {**row, **more, "image": [99.0] * 6, "label": 1.0 - row["label"], "position": 77}
    other = make_context(settings(), root=tmp_path / "other")
    store(other, list(reversed(data)))  # another layout too
    encode.run(other)
    pointers = [json.loads(read_bytes(c.root.path("encoders", "current.json"))) for c in (ctx, other)]
    assert pointers[0]["fingerprint"] == pointers[1]["fingerprint"]
    files = [read_bytes(pointer["path"]) for pointer in pointers]
    assert files[0] == files[1]
    assert stored(ctx) != stored(other)


def test_a_second_run_changes_nothing(encoded: Any) -> None:
    ctx, first = encoded
    version = ctx.catalog.version("samples")
    again = encode.run(ctx)
    assert again.skipped
    assert ctx.catalog.version("samples") == version
    assert again.metrics == first.metrics
    assert again.outputs["samples"] == first.outputs["samples"]


def test_what_a_killed_run_leaves_is_mended(make_context: Any, monkeypatch: Any) -> None:
    """Samples, details and pointer are of one encoder wherever a run ends, and earlier settings are no dead end."""
    casts = [  # null, and not an error of ANSI
        {"column": "title", "name": "cast", "kind": "number", "expression": "cast(title as double)"},
        {"column": "position", "name": "ratio", "kind": "number", "expression": "1 / (position - 1)"},
    ]
    ctx, other = (make_context(settings(features=PLAIN[:2] + more)) for more in (casts, []))
    store(ctx, rows(60))
    first = encode.run(ctx).details["encoder"]
    spec = current(ctx.root).inputs
    assert "ratio_missing" in spec.numbers and encoded_samples.encoder(ctx) == (first, spec)

    def ends(place: Any, name: str) -> None:
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(place, name, lambda *_, **__: 1 / 0)
            encode.run(other)
        with pytest.raises(StageOrderError, match="cut short"):
            encoded_samples.encoder(ctx)

    ends(other.catalog, "replace")  # before the table is written
    assert encode.run(ctx).skipped and encoded_samples.encoder(ctx) == (first, spec)
    ends(encode, "_settle")  # before the pointer is moved
    assert encode.run(other).skipped
    second, _ = encoded_samples.encoder(ctx)
    assert second != first

    ctx.root.remove("encoders", "current.json")
    part = make_context({**settings(features=PLAIN[:2]), "run": {"date_from": str(START.date())}})
    assert encode.run(part).details["encoder"] == second  # the dates alone, by the encoder that is held
    ctx.root.write_bytes(b"{", "encoders", "current.json")
    assert encode.run(part).skipped and encoded_samples.encoder(ctx)[0] == second

    ctx.root.remove("encoders", f"{second}.json")
    with pytest.raises(StageOrderError, match="FileNotFoundError while reading") as error:
        encoded_samples.encoder(ctx)
    assert "sie encode" in error.value.remedy
    assert not encode.run(part).skipped and encoded_samples.encoder(ctx)[0] == second


def test_one_date_keeps_the_encoder(make_context: Any, tmp_path: Any) -> None:
    ctx = make_context(settings(features=PLAIN))
    store(ctx, rows())
    encode.run(ctx)
    before = stored(ctx)
    day = (START + dt.timedelta(days=3)).date()
    late = {**rows()[-1], "impression_id": "late", "item_id": "item1"}
    store(ctx, [*rows(), late])
    part = make_context(
        {**settings(features=PLAIN), "run": {"date_from": str(day), "date_to": str(day)}},
        root=tmp_path / "root",
    )
    result = encode.run(part)
    after = stored(ctx)
    assert result.rows.read == 101
    new = xxhash64(b"late")
    assert {key: row for key, row in after.items() if key != new} == before
    assert after[new]["split"] == "test"
    assert encode.run(part).skipped


def test_split_at_a_given_time_and_by_hash(make_context: Any, tmp_path: Any) -> None:
    ctx = make_context(
        settings(features=PLAIN, split={"test_from": "2024-03-02T00:00:00"}), root=tmp_path / "time"
    )
    store(ctx, rows())
    assert encode.run(ctx).metrics["rows_train"] == 100
    ctx = make_context(
        settings(features=PLAIN, split={"by": "hash", "test_fraction": 0.4}), root=tmp_path / "hash"
    )
    store(ctx, rows())
    encode.run(ctx)
    parts: dict[int, set[str]] = {}
    for sample in stored(ctx).values():
        parts.setdefault(sample["group_id"], set()).add(sample["split"])
    assert all(len(part) == 1 for part in parts.values())  # a group is never on both sides
    share = sum(part == {"test"} for part in parts.values()) / len(parts)
    assert 0.15 < share < 0.65


@pytest.mark.parametrize("by", ["time", "hash"])
def test_a_validation_part_is_off_limits(make_context: Any, by: str) -> None:
    """By time the last quarter of what is left before the test part; by hash a quarter of the groups' rows."""
    ctx = make_context(settings(features=PLAIN, split={"by": by, "validation_fraction": 0.25}))
    data = rows()
    seconds = np.array([int(row["event_ts"].timestamp()) for row in data])
    cut = int(np.ceil(np.percentile(seconds, 80)))
    start = int(np.ceil(np.percentile(seconds[seconds < cut], 75)))
    for row in data:
        if start <= row["event_ts"].timestamp() < cut and by == "time":
            row["item_id"] = "only in the validation part"
    store(ctx, data)
    result = encode.run(ctx)
    samples = stored(ctx)
    parts = {
        name: [s for s in samples.values() if s["split"] == name] for name in ("train", "validation", "test")
    }
    for name, part in parts.items():
        assert result.metrics[f"rows_{name}"] == len(part) > 0
    if by == "hash":
        groups = [{s["group_id"] for s in part} for part in parts.values()]
        assert not (groups[0] & groups[1] or groups[1] & groups[2] or groups[0] & groups[2])
        return
    assert result.details["split"]["validation_seconds"] == start
    for row in data:
        at = row["event_ts"].timestamp()
        expected = "train" if at < start else "validation" if at < cut else "test"
        assert samples[xxhash64(row["impression_id"].encode())]["split"] == expected
    # frequent as it is, the vocabulary does not know it
    assert {s["cat"][0] for s in parts["validation"]} == {0}


def test_conversions_that_are_not_final_stay_out_of_training(make_context: Any) -> None:
    """A day before the cut a label owes to days after it: neither its 0 nor its 1 may train.

    At the end of the log an outcome may still come: such a row does not test either.
    """
    ctx = make_context(settings(features=PLAIN, label="conversion", maturity_hours=24))
    data = rows()
    data[3]["label"] = None
    data[4]["label_mature"] = False
    data[-1]["label_mature"] = False
    store(ctx, data)
    result = encode.run(ctx)
    cut = result.details["split"]["seconds"]
    young = [row for row in data if cut - 86400 < row["event_ts"].timestamp() < cut]
    assert result.details["labels"]["train"]["immature"] == len(young) + 1
    assert result.details["labels"]["train"]["null"] == 1
    assert result.details["labels"]["test"]["immature"] == 1
    samples = stored(ctx)
    left_out = [*young, data[3], data[4], data[-1]]
    assert not any(xxhash64(row["impression_id"].encode()) in samples for row in left_out)
    assert result.rows.read - result.rows.kept == len(left_out)
    assert (result.metrics["rows_null"], result.metrics["rows_immature"]) == (1, len(young) + 2)
    # the cut lies among rows whose label counts
    final = sorted(row["event_ts"].timestamp() for row in data if row["label_mature"])
    assert sum(cut <= second for second in final) == pytest.approx(0.2 * len(final), abs=1)


def test_bad_labels_and_splits_are_named(make_context: Any, tmp_path: Any) -> None:
    def attempt(change: Any, **dataset: Any) -> None:
        ctx = make_context(settings(features=PLAIN, **dataset), root=tmp_path / f"r{attempt.count}")  # type: ignore[attr-defined]
        attempt.count += 1  # type: ignore[attr-defined]
        store(ctx, [{**row, **change} for row in rows(40)])
        encode.run(ctx)

    attempt.count = 0  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"only label 0 \(32 zeros, 0 ones") as error:
        attempt({"label": 0.0})
    assert "dataset.label" in error.value.remedy
    with pytest.raises(DataError, match="younger than 24 hours") as error:
        attempt({"label_mature": False}, label="conversion", maturity_hours=24)
    assert "dataset.maturity_hours" in error.value.remedy
    with pytest.raises(DataError, match="40 labels are neither 0 nor 1"):
        attempt({"label": 2.0})
    with pytest.raises(DataError, match="no rows"):
        attempt({"label": None})
    with pytest.raises(DataError, match="too close for a split by time") as error:
        attempt({"event_ts": START})
    assert "by=hash" in error.value.remedy
    with pytest.raises(DataError, match="no row is left for the test part"):
        attempt({}, split={"test_from": "2030-01-01"})
    with pytest.raises(ConfigError, match="test_from.*no ISO time"):
        attempt({}, split={"test_from": "soon"})


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ({"column": "pricee", "kind": "number"}, "no column 'pricee'; did you mean 'price'"),
        ({"column": "title", "kind": "number"}, "a number cannot be made of string"),
        ({"column": "title", "kind": "bag"}, "needs an array, not string"),
        ({"column": "event_ts", "kind": "category"}, "a category cannot be made of timestamp"),
        ({"column": "image", "kind": "vector"}, "needs its size"),
        ({"column": "x", "kind": "number", "expression": "pricee + 1"}, "pricee"),
        ({"column": "tags", "kind": "bag", "shares": "nothing"}, "shares 'nothing'"),
        ({"column": "tags", "name": "label", "kind": "bag"}, "this name is taken there"),
    ],
)
def test_bad_features_are_named(make_context: Any, spark: Any, feature: dict[str, Any], message: str) -> None:
    from helpers.impressions_table import frame
    from sie_spark.features.resolve import resolve
    from sie_spark.platform.config import Feature

    with pytest.raises(ConfigError, match=message):
        resolve([Feature(**feature)], frame(spark, rows(1)))


def test_impressions_come_first(make_context: Any) -> None:
    with pytest.raises(StageOrderError):
        encode.run(make_context(settings()))


def test_no_python_runs_in_the_plan(encoded: Any, capsys: Any) -> None:
    ctx, _ = encoded
    encoder = current(ctx.root)
    encoder.transform(ctx.catalog.read("impressions")).explain()
    plan = capsys.readouterr().out
    assert "Python" not in plan
    assert "Exchange hash" not in plan  # no shuffle either
