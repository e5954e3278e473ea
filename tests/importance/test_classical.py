"""Classical scores against definitions: columns by hand, optima by their gradients, counts by loops."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier

from sie_spark.importance import SCORERS, Given, Seen
from sie_spark.importance.contracts import Scorer, State, state_from_bytes, state_to_bytes
from sie_spark.importance.design import Design
from sie_spark.importance.fits.impurity_tree import leaves
from sie_spark.importance.fits.linear import LinearModel
from sie_spark.importance.plan import make_plan
from sie_spark.models import Batch
from sie_spark.platform.config import Importance
from sie_spark.platform.draws import uniform
from sie_spark.platform.errors import DataError
from sie_spark.platform.inputs import InputSpec

SPEC = InputSpec(
    categories={"item": 10, "city": 1000},
    numbers=("price", "still"),
    bags={"tags": (6, 4)},
    sequences={"seen": (10, 3)},
    vectors={"image": 2},
)
SETTINGS = Importance(sample_rows=800)


def rows_of(rows: int, seed: int, first: int = 0) -> Batch:
    """Clicks follow the item, the price and a tag; numbers have gaps and an outlier."""
    rng = np.random.default_rng(seed)
    item, city = rng.integers(0, 10, rows), rng.integers(0, 300, rows)
    price = rng.normal(50, 10, rows)
    tags, seen = rng.integers(0, 6, (rows, 4)), rng.integers(0, 10, (rows, 3))
    logit = -1.5 + 0.3 * (item - 5) + 0.1 * (price - 50) + 1.0 * (tags == 2).sum(1)
    label = rng.random(rows) < 1 / (1 + np.exp(-logit))
    price[rng.random(rows) < 0.05] = np.nan
    price[0] = 300
    inputs = {
        "cat": np.stack([item, city], 1),
        "dense": np.stack([price, np.full(rows, 3.0)], 1).astype(np.float32),
        "tags": tags,
        "seen": seen,
        "image": rng.normal(size=(rows, 2)).astype(np.float32),
    }
    return Batch(
        {name: torch.from_numpy(values) for name, values in inputs.items()},
        torch.from_numpy(label.astype(np.float32)),
        torch.zeros(rows),
        torch.from_numpy(rng.uniform(1, 3, rows).astype(np.float32)),
        torch.arange(first, first + rows),
    )


TRAIN, OTHER = rows_of(800, 1), rows_of(100, 2, first=5000)


def fitted(
    scorer: Scorer, train: Batch = TRAIN, spec: InputSpec = SPEC, cuts: Iterable[int] = (0, 300, 800)
) -> Given:
    given = Given({}, settings=SETTINGS, inputs=spec)
    states: dict[str, State] = {}
    for fit in [fit for level in make_plan([scorer], given).levels for fit in level]:
        known, parts = replace(given, states=states), []
        for rows in pairwise(cuts) if fit.rows else ():
            one = fit.open(known)
            for part in train.take(slice(*rows)).split(64):
                one.add(Seen(part, {}))
            parts.append(state_from_bytes(state_to_bytes(one.state())))
        states[fit.key] = state_from_bytes(state_to_bytes(fit.finish(fit.merge(parts), known)))
    return replace(given, states=states)


def score(name: str, batch: Batch = TRAIN, **options: object) -> np.ndarray:
    given = fitted(SCORERS[name], **options)  # type: ignore[arg-type]
    return np.concatenate([SCORERS[name].score(Seen(part, {}), given).numpy() for part in batch.split(64)])


def columns(batch: Batch) -> np.ndarray:
    """A row at a time: ids that training rows have, in order, and numbers by weight."""
    x = {name: values.numpy() for name, values in TRAIN.inputs.items()}
    numbers = np.concatenate([x["dense"], x["image"]], 1).astype(float)
    weight = TRAIN.weight.double().numpy()
    statistics = []
    for column in numbers.T:
        there = np.isfinite(column)
        mean = np.average(column[there], weights=weight[there])
        statistics.append((mean, np.average((column[there] - mean) ** 2, weights=weight[there]) ** 0.5))
    tables = [sorted(set(x["cat"][:, 0])), sorted(set(x["cat"][:, 1])), [*range(1, 6)], [*range(1, 10)]]
    found = []
    y = {name: values.numpy() for name, values in batch.inputs.items()}
    for row in range(len(batch)):
        ids = [y["cat"][row, :1], y["cat"][row, 1:], y["tags"][row], y["seen"][row]]
        one = [
            sum(value == i for value in values)
            for table, values in zip(tables, ids, strict=True)
            for i in table
        ]
        for value, (mean, sd) in zip([*y["dense"][row], *y["image"][row]], statistics, strict=True):
            moved = (value - mean) / sd if np.isfinite(value) and sd else 0.0
            one.append(min(max(moved, -5.0), 5.0))
        found.append(one)
    return np.array(found, float)


def test_columns_are_those_by_hand() -> None:
    given = fitted(SCORERS["lr_score"])
    design = Design.of_state(SPEC, given.states[LinearModel("logistic", 800).key])
    for batch in (TRAIN, OTHER):
        found = design({name: values.numpy() for name, values in batch.inputs.items()})
        np.testing.assert_allclose(found.toarray(), columns(batch), rtol=1e-6, atol=1e-9)


def test_logistic_regression_is_at_its_optimum() -> None:
    state = fitted(SCORERS["lr_score"]).states[LinearModel("logistic", 800).key]
    x, y, weight = columns(TRAIN), TRAIN.label.numpy(), TRAIN.weight.double().numpy()
    found = score("lr_score")
    np.testing.assert_allclose(found, x @ state["theta"] + float(state["intercept"]), rtol=1e-6, atol=1e-9)
    residual = weight / weight.mean() * (1 / (1 + np.exp(-found)) - y)
    np.testing.assert_allclose(x.T @ residual + state["theta"], 0, atol=0.1)
    assert abs(residual.sum()) < 0.1
    assert roc_auc_score(OTHER.label.numpy(), score("lr_score", OTHER)) > 0.7
    np.testing.assert_array_equal(score("lr_score", cuts=(0, 1, 700, 800)), found)


def test_svm_margin_is_a_distance_between_classes_of_equal_weight() -> None:
    few = replace(TRAIN, label=TRAIN.label * (torch.arange(800) % 4 == 0))
    state = fitted(SCORERS["svm_margin"], train=few).states[LinearModel("svm", 800).key]
    x, y, weight = columns(TRAIN), few.label.numpy() > 0, TRAIN.weight.double().numpy()
    f = x @ state["theta"] + float(state["intercept"])
    found = score("svm_margin", train=few)
    np.testing.assert_allclose(found, -np.abs(f) / np.linalg.norm(state["theta"]), rtol=1e-6)
    # the optimum of the squared hinge loss
    weight[y], weight[~y] = 400 * weight[y] / weight[y].sum(), 400 * weight[~y] / weight[~y].sum()
    slack = 2 * weight * np.maximum(1 - np.where(y, f, -f), 0) * np.where(y, 1, -1)
    np.testing.assert_allclose(x.T @ slack, state["theta"], atol=0.05)
    assert y.mean() < 0.1 and 0.1 < (f > 0).mean() < 0.6  # the boundary lies in the data


def test_tree_walks_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 4)).astype(np.float32)
    tree = DecisionTreeClassifier(min_samples_leaf=5, random_state=0).fit(x, rng.random(3000) < 0.2)
    arrays = {
        "left": tree.tree_.children_left,
        "right": tree.tree_.children_right,
        "feature": tree.tree_.feature,
        "threshold": tree.tree_.threshold,
    }
    fresh = rng.normal(size=(500, 4)).astype(np.float32)
    for rows in (x, fresh, fresh[:0]):
        np.testing.assert_array_equal(leaves(arrays, rows), tree.apply(rows) if len(rows) else [])


def test_tree_impurity_is_that_of_the_labels_around() -> None:
    """Half of the items are a coin; the others never click. Cities say nothing, and are not learned by heart."""
    spec = InputSpec(categories={"item": 10, "city": 300})
    rng = np.random.default_rng(3)
    cat = np.stack([rng.integers(0, 10, 800), rng.integers(0, 300, 800)], 1)
    label = (cat[:, 0] < 5) & (rng.random(800) < 0.5)
    batch = replace(
        TRAIN,
        inputs={"cat": torch.from_numpy(cat), "dense": torch.zeros(800, 0)},
        label=torch.from_numpy(label),
    )
    batch = replace(batch, label=batch.label.float())
    found = score("tree_impurity", batch, train=batch, spec=spec)
    coin = cat[:, 0] < 5
    assert found[~coin].max() < 0.02 and found[coin].mean() > 0.35 and found.max() <= 0.5
    unknown = replace(batch, inputs={**batch.inputs, "cat": batch.inputs["cat"] + 10_000})
    assert len(set(score("tree_impurity", unknown, train=batch, spec=spec))) == 1


def test_rows_with_gaps_and_new_ids_are_scored() -> None:
    odd = replace(OTHER, inputs={**OTHER.inputs, "cat": OTHER.inputs["cat"] + 10_000})
    odd.inputs["dense"][:, 0] = float("nan")
    for name in ("lr_score", "svm_margin", "tree_impurity", "frequency", "pointwise_mutual_information"):
        assert np.isfinite(score(name, odd)).all()
    assert not score("frequency", odd).any() and not score("pointwise_mutual_information", odd).any()


@pytest.mark.parametrize("name", ["lr_score", "svm_margin", "tree_impurity"])
def test_one_label_cannot_be_told_apart(name: str) -> None:
    with pytest.raises(DataError, match="have label 0") as caught:
        score(name, train=replace(TRAIN, label=torch.zeros(800)))
    assert "importance.sample_rows" in caught.value.remedy


def test_frequency_is_the_mean_share_of_rows_with_the_id() -> None:
    ids = TRAIN.inputs["cat"].numpy()
    expected = [np.mean([(ids[:, field] == row[field]).mean() for field in (0, 1)]) for row in ids]
    np.testing.assert_allclose(score("frequency"), expected)
    np.testing.assert_allclose(score("frequency", cuts=(0, 5, 6, 800)), expected)


@pytest.mark.parametrize("cuts", [(0, 800), (0, 10, 799, 800)])
def test_pointwise_mutual_information_is_that_of_other_folds(cuts: tuple[int, ...]) -> None:
    fold = np.floor(4 * uniform(np.arange(6000), seed=0, purpose="fold")).astype(int)
    ids, y, weight = TRAIN.inputs["cat"].numpy(), TRAIN.label.numpy(), TRAIN.weight.double().numpy()
    for batch in (TRAIN, OTHER):
        expected = []
        for row, label, sample in zip(
            batch.inputs["cat"].numpy(), batch.label.tolist(), batch.sample_id.tolist(), strict=True
        ):
            other = fold[:800] != fold[sample]
            p = (weight[other & (y == label)].sum() + 1) / (weight[other].sum() + 2)
            total = 0.0
            for field in (0, 1):
                same = other & (ids[:, field] == row[field])
                rate = (weight[same & (y == label)].sum() + 20 * p) / (weight[same].sum() + 20)
                total += math.log(rate / p)
            expected.append(total)
        np.testing.assert_allclose(
            score("pointwise_mutual_information", batch, cuts=cuts), expected, rtol=1e-9, atol=1e-12
        )
    assert len(set(fold[:800])) == 4


def test_flipped_labels_are_those_that_ids_speak_against() -> None:
    rng = np.random.default_rng(4)
    cat = rng.integers(0, 40, (800, 2))
    true = rng.random(800) < np.where(cat[:, 0] < 12, 0.9, 0.05)
    flipped = rng.random(800) < 0.1
    batch = replace(
        TRAIN,
        inputs={"cat": torch.from_numpy(cat)},
        label=torch.from_numpy((true != flipped).astype(np.float32)),
    )
    found = score("pointwise_mutual_information", batch, train=batch)
    assert roc_auc_score(flipped, -found) > 0.85
