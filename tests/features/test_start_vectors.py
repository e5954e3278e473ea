"""Matrix-factorisation start vectors, and click rates that back off."""

from pathlib import Path

import numpy as np
import pytest

from helpers.encoders import current
from helpers.impressions_table import rows, settings, store
from sie_spark.features import encode
from sie_spark.features.resolve import backed_off
from sie_spark.features.start_vectors import factorise, load_start_vectors
from sie_spark.platform.errors import ConfigError, DataError

VECTORS = {"user": "user_id", "item": "item_id", "components": 4}
FEATURES = [{"column": "item_id", "kind": "category"}, {"column": "user_id", "kind": "category"}]


def test_the_factors_are_those_of_a_dense_svd() -> None:
    draw = np.random.default_rng(0)
    dense = draw.poisson(0.7, (30, 20)).astype(float)
    dense[:, 0] = dense[0] = 0  # the unknown ids
    r, c = np.nonzero(dense)
    shuffle = draw.permutation(len(r))
    (users, items), energy = factorise(r[shuffle], c[shuffle], dense[r, c][shuffle], (30, 20), 3)
    weights = np.log1p(dense)
    du, di = weights.sum(1), weights.sum(0)
    normal = weights / np.sqrt(np.outer(np.where(du > 0, du, 1), np.where(di > 0, di, 1)))
    u, s, vt = np.linalg.svd(normal)
    np.testing.assert_allclose(users @ items.T, (u[:, :3] * s[:3]) @ vt[:3], atol=1e-9)
    assert energy == pytest.approx((s[:3] ** 2).sum() / (s**2).sum())
    assert not users[0].any()


def test_too_little_to_factorise_is_refused() -> None:
    one = np.array([1])
    with pytest.raises(DataError, match="only 1 user"):
        factorise(one, one, one, (3, 3), 2)


@pytest.mark.spark
def test_users_of_one_taste_start_close(make_context, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Even users click even items; the vectors must show it, and only training clicks may be read."""
    data = rows(4_000)
    for row in data:
        user, item = int(row["user_id"][4:]), int((row["item_id"] or "item0")[4:])
        row["label"] = float(user % 2 == item % 2 and row["position"] < 9)
    ctx = make_context(settings(features=FEATURES, start_vectors=VECTORS))
    store(ctx, data)
    details = encode.run(ctx).details
    vectors, encoder = load_start_vectors(ctx.root), current(ctx.root)
    assert encoder is not None
    assert details["start_vectors"]["users"] == 30
    for feature in encoder.features:
        found = vectors[feature.name]
        assert found.shape == (feature.ids.size, 4)  # type: ignore[union-attr]
        assert np.sqrt((found**2).mean()) == pytest.approx(0.05, rel=0.2)
        names = [name for name in feature.ids.values if name != "<missing>"]  # type: ignore[union-attr]
        parity = np.array([int(name[4:]) % 2 for name in names])
        unit = np.array([found[feature.ids.id(name)] for name in names])  # type: ignore[union-attr]
        cosine = unit @ unit.T / np.linalg.norm(unit, axis=1)[:, None] / np.linalg.norm(unit, axis=1)
        same = parity[:, None] == parity
        assert cosine[same].mean() > cosine[~same].mean() + 0.3
    for at, row in enumerate(data):
        if row["event_ts"].timestamp() >= details["split"]["seconds"]:
            data[at] = {**row, "label": 1.0 - row["label"]}
    store(ctx, data)
    encode.run(ctx)
    for name, vector in load_start_vectors(ctx.root).items():
        np.testing.assert_array_equal(vector, vectors[name])
    # those of an encoder whose samples were never written are not in the way
    rare = [{**feature, "min_count": 60} for feature in FEATURES]
    other = make_context(settings(features=rare, start_vectors=VECTORS))
    monkeypatch.setattr(other.catalog, "replace", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encode.run(other)
    assert encode.run(ctx).skipped
    for name, vector in load_start_vectors(ctx.root).items():
        np.testing.assert_array_equal(vector, vectors[name])
    name = encoder.fingerprint
    ctx.root.remove("encoders", f"start_{name}.npz")
    assert load_start_vectors(ctx.root) == {} and encode._opened(ctx, name) is None  # so it is fitted again


@pytest.mark.spark
def test_more_pairs_than_asked_for_give_the_same_vectors(make_context, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Of the sampled users' pairs some are cut off: not those that a shuffle happens to bring last."""
    data = rows(4_000)
    found = []
    for name, ordered in (("there", data), ("back", data[::-1])):
        start = {**VECTORS, "pairs": 100}
        ctx = make_context(settings(features=FEATURES, start_vectors=start), root=tmp_path / name)
        store(ctx, ordered)
        assert encode.run(ctx).details["start_vectors"]["pairs"] == 100
        found.append(load_start_vectors(ctx.root))
    for feature, vectors in found[0].items():
        np.testing.assert_array_equal(vectors, found[1][feature])


def test_an_unknown_category_is_named(make_context) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="'usr' is no category; there are: item_id, user_id"):
        make_context(settings(features=FEATURES, start_vectors={**VECTORS, "user": "usr"}))


@pytest.mark.spark
def test_rates_back_off_from_item_to_brand_to_shop(spark) -> None:  # type: ignore[no-untyped-def]
    names = "rate_item double, count_item long, rate_brand double, count_brand long, rate_shop double, count_shop long"
    data = [
        (0.5, 20, 0.1, 180, 0.3, 20),
        (0.9, 0, 0.1, 180, 0.3, 9),
        (None, 0, None, 0, 0.3, 9),
        (None, 0, None, 0, None, 0),
    ]
    found = [
        row[0]
        for row in spark.createDataFrame(data, names)
        .selectExpr(backed_off(["item", "brand", "shop"], 20.0))
        .collect()
    ]
    brand = (180 * 0.1 + 20 * 0.3) / 200
    assert found[:3] == pytest.approx([(20 * 0.5 + 20 * brand) / 40, brand, 0.3])
    assert found[3] is None
