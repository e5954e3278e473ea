"""Selection finds planted features and drops planted noise, and says why."""

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from helpers.encoders import current
from helpers.impressions_table import FEATURES, rows, settings, store
from sie_spark.features import encode
from sie_spark.features.blocks import Block
from sie_spark.features.encoder import Encoder
from sie_spark.features.identifiers import Category, IdList
from sie_spark.features.selection import _saved, judge, mutual_information
from sie_spark.features.vocabulary import Hashed
from sie_spark.platform.config import Selection, StartVectors
from sie_spark.platform.errors import DataError

ROWS = 8_000


def planted() -> tuple[list[Block], np.ndarray]:
    """A category and a number that matter, a bag with one id that matters, and a noise twin of each."""
    draw = np.random.default_rng(0)
    item, twin = draw.integers(0, 30, ROWS), draw.integers(0, 400, ROWS)
    price, noise = draw.normal(size=ROWS), draw.normal(size=ROWS)
    tags, chaff = draw.integers(0, 12, (ROWS, 3)), draw.integers(0, 12, (ROWS, 3))
    rare, rarely_not = (draw.random(ROWS) < 0.03).astype(float), (draw.random(ROWS) > 0.03).astype(float)
    logit = (
        0.5
        + 2 * rare
        - 2 * rarely_not
        + draw.normal(size=30)[item]
        + 0.8 * price
        + 1.2 * (tags == 5).any(axis=1)
    )
    labels = (draw.random(ROWS) < 1 / (1 + np.exp(-logit))).astype(float)
    blocks = [
        Block("item", item[:, None]),
        Block("twin", twin[:, None]),
        Block("price", price[:, None]),
        Block("rare", rare[:, None]),
        Block("rarely_not", rarely_not[:, None]),
        Block("noise", np.stack([noise, np.zeros(ROWS)], axis=1)),
        Block("tags", tags),
        Block("chaff", chaff),
    ]
    return blocks, labels


@pytest.mark.parametrize("method", ["information", "l1", "recursive"])
def test_planted_features_stay_and_noise_goes(method: str) -> None:
    blocks, labels = planted()
    verdicts = judge(blocks, labels, Selection(methods=[method]))
    dropped = {verdict.feature for verdict in verdicts if verdict.drop}
    assert dropped == {"twin", "noise", "chaff"}
    assert all(verdict.reason for verdict in verdicts)


def test_information_is_the_plug_in_estimate_less_its_bias() -> None:
    draw = np.random.default_rng(1)
    codes, labels = draw.integers(0, 7, 500), draw.integers(0, 2, 500).astype(float)
    nats, p = mutual_information(codes, labels)
    assert nats == pytest.approx(mutual_info_score(codes, labels) - 6 / 1000, abs=1e-12)
    assert 0 < p < 1
    assert mutual_information(labels, labels)[0] == pytest.approx(
        -(labels.mean() * np.log(labels.mean()) + (1 - labels.mean()) * np.log(1 - labels.mean())) - 1 / 1000
    )
    assert mutual_information(np.zeros(500), labels) == (0.0, 1.0)


def test_p_values_of_independent_values_are_uniform() -> None:
    draw = np.random.default_rng(2)
    found = [
        mutual_information(draw.integers(0, 10, 2_000), (draw.random(2_000) < 0.2).astype(float))[1]
        for _ in range(400)
    ]
    assert abs(np.mean(np.array(found) < 0.1) - 0.1) < 0.05


def test_a_sample_of_one_class_is_refused() -> None:
    blocks, labels = planted()
    with pytest.raises(DataError, match="labels of one class"):
        judge(blocks, np.zeros_like(labels), Selection(methods=["l1"]))


def test_a_category_stays_for_what_is_kept() -> None:
    def saved(
        *keep: str, voted: str, order: str = "item user seq bag", start: bool = False
    ) -> dict[str, str]:
        made: dict[str, Category | IdList] = {
            name: Category(name, name, "string", Hashed(5)) for name in ("item", "user")
        }
        for name in ("seq", "bag"):
            made[name] = IdList(name, name, "string", Hashed(5), 3, "sequence", shares="item")
        encoder = Encoder(tuple(made[name] for name in order.split()))
        vectors = StartVectors(user="user", item="item") if start else None  # type: ignore[call-arg]
        return _saved(encoder, set(voted.split()), Selection(keep=list(keep)), vectors)

    keep, uses = "named in dataset.selection.keep", "'seq' uses its ids"
    assert saved("seq", voted="item seq") == {"seq": keep, "item": uses}
    assert saved("seq", voted="item") == {"item": uses}
    assert saved("item", "user", voted="item seq bag") == {"item": keep}
    assert saved(voted="item seq bag") == {}
    assert saved(voted="item seq") == {"item": "'bag' uses its ids"}
    assert saved(voted="item user seq bag") == {"item": "a model needs one input"}
    assert saved(voted="item seq bag", order="seq item bag") == {
        "seq": "a model needs one input",
        "item": uses,
    }
    start = "named in dataset.start_vectors"
    assert saved("user", voted="item user", start=True) == {"user": keep, "item": start}
    assert saved(voted="seq", start=True) == {}


@pytest.mark.spark
def test_the_stage_drops_and_reports(make_context) -> None:  # type: ignore[no-untyped-def]
    data = rows(3_000)
    for at, row in enumerate(data):
        row["label"] = row["click"] = float((at * 7919) % 10 < (6 if row["tags"] else 1))  # only tags tell
        row["click"] = int(row["label"])
    features = [feature for feature in FEATURES if feature["kind"] in ("category", "bag", "sequence")]
    chosen = {"methods": ["information", "recursive"], "votes": 2, "apply": True, "keep": ["place"]}
    ctx = make_context(settings(features=features, selection=chosen))
    store(ctx, data)
    report = encode.run(ctx).details["selection"]
    encoder = current(ctx.root)
    assert encoder is not None
    left = [feature.name for feature in encoder.features]
    assert "tags" in left
    assert "user_id" in report["dropped"]
    assert "user_id" not in left
    assert (
        report["kept_despite"].get("place", "named in dataset.selection.keep")
        == "named in dataset.selection.keep"
    )
    assert all(len(reasons) == 2 for reasons in report["dropped"].values())
    assert len(ctx.catalog.read("samples").first()["cat"]) == len(encoder.inputs.categories)
