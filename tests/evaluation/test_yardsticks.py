"""Yardsticks against the truth of generated tables: what they find, what must not fool them, what chooses."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from sie_spark.evaluation import yardsticks
from sie_spark.evaluation.yardsticks import Yardstick, fit_yardsticks
from sie_spark.models.batch import Batch
from sie_spark.platform.errors import DataError
from sie_spark.platform.inputs import InputSpec

Truth = tuple[Batch, InputSpec, np.ndarray]
NAMES = ["constant", "logistic_regression", "boosted_trees"]


def sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def batch(label: np.ndarray, weight: np.ndarray | None = None, **inputs: np.ndarray) -> Batch:
    kinds = {"i": torch.int64, "f": torch.float32}
    rows = len(label)
    tensors = {name: torch.tensor(value, dtype=kinds[value.dtype.kind]) for name, value in inputs.items()}
    weights = torch.ones(rows) if weight is None else torch.tensor(weight, dtype=torch.float32)
    labels = torch.tensor(label, dtype=torch.float32)
    return Batch(tensors, labels, torch.zeros(rows), weights, torch.arange(rows))


def parts(data: Batch, *ends: int) -> list[Batch]:
    return [data.take(slice(start, end)) for start, end in zip((0, *ends), (*ends, len(data)), strict=True)]


def linear(rows: int, seed: int = 0, *, intercept: float = -2.2) -> Truth:
    """Two categories and two numbers, added up; a third number says nothing."""
    rng = np.random.default_rng(seed)
    world = np.random.default_rng(7)
    cat = np.stack([rng.integers(0, 40, rows), rng.integers(0, 5, rows)], axis=1)
    dense = rng.normal(size=(rows, 3)) * [1.0, 20.0, 1.0] + [0.0, 100.0, 0.0]
    logit = intercept + 0.7 * world.normal(size=40)[cat[:, 0]] + 0.4 * world.normal(size=5)[cat[:, 1]]
    logit = logit + 0.7 * dense[:, 0] - 0.4 * (dense[:, 1] - 100) / 20
    p = sigmoid(logit)
    label = (rng.random(rows) < p).astype(float)
    return batch(label, cat=cat, dense=dense), InputSpec({"item": 40, "device": 5}, ("a", "b", "c")), p


def crossed(rows: int, seed: int = 0) -> Truth:
    """The product of two numbers."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(rows, 2))
    p = sigmoid(-2.0 + dense[:, 0] * dense[:, 1])
    return batch((rng.random(rows) < p).astype(float), dense=dense), InputSpec(numbers=("a", "b")), p


def noise(rows: int, *, ids: int, slope: float, seed: int = 0) -> Truth:
    """Two categories of many ids that say nothing, and a number that says something unless ``slope`` is 0."""
    rng = np.random.default_rng(seed)
    cat, dense = rng.integers(0, ids, (rows, 2)), rng.normal(size=(rows, 1))
    p = sigmoid(-1.0 + slope * dense[:, 0])
    label = (rng.random(rows) < p).astype(float)
    return batch(label, cat=cat, dense=dense), InputSpec({"user": ids, "item": ids}, ("a",)), p


def auc(found: Yardstick, test: Batch) -> float:
    return float(roc_auc_score(test.label.numpy(), found.logits(test)))


def by_name(found: list[Yardstick]) -> tuple[Yardstick, Yardstick]:
    assert [one.name for one in found] == NAMES
    return found[1], found[2]


def test_logistic_regression_finds_a_linear_truth() -> None:
    data, spec, p = linear(60_000)
    train, validation, test = parts(data, 24_000, 30_000)
    logistic, trees = by_name(fit_yardsticks(train, validation, spec))
    best = roc_auc_score(test.label.numpy(), p[30_000:])
    assert best > 0.7
    assert auc(logistic, test) > best - 0.005
    assert auc(trees, test) > best - 0.02
    assert abs(sigmoid(logistic.logits(test)) - p[30_000:]).mean() < 0.015


def test_trees_find_a_product() -> None:
    data, spec, p = crossed(40_000)
    train, validation, test = parts(data, 16_000, 20_000)
    logistic, trees = by_name(fit_yardsticks(train, validation, spec))
    assert auc(logistic, test) < 0.55
    assert auc(trees, test) > roc_auc_score(test.label.numpy(), p[20_000:]) - 0.02


@pytest.mark.parametrize("ids", [30, 200, 4000, 20_000])
def test_ids_that_say_nothing_do_no_harm(ids: int) -> None:
    """As categories, as target encodings and with more ids than rows."""
    data, spec, p = noise(45_000, ids=ids, slope=1.0)
    train, validation, test = parts(data, 12_000, 15_000)
    best = roc_auc_score(test.label.numpy(), p[15_000:])
    for found in by_name(fit_yardsticks(train, validation, spec)):
        assert auc(found, test) > best - 0.01, found
        loss = log_loss(test.label.numpy(), sigmoid(found.logits(test)))
        assert loss < log_loss(test.label.numpy(), p[15_000:]) + 0.005, found


@pytest.mark.parametrize("validated", [True, False])
def test_nothing_is_found_where_nothing_is(validated: bool) -> None:
    data, spec, p = noise(50_000, ids=4000, slope=0.0)
    train, validation, test = parts(data, 10_000, 12_000)
    found = fit_yardsticks(train, validation if validated else None, spec)
    _, trees = by_name(found)
    assert abs(auc(trees, test) - 0.5) < 0.01
    if validated:
        for one in found:
            assert abs(auc(one, test) - 0.5) < 0.01
            assert abs(sigmoid(one.logits(train)) - p[0]).mean() < 0.02, "nothing was learnt by heart"


def test_target_encodings_of_training_rows_come_from_the_other_folds() -> None:
    """An id seen once is encoded, for its own row, as if it had never been seen."""
    rows = 1000
    label = (np.arange(rows) % 4 == 0).astype(float)
    ids = np.arange(rows)[:, None]
    ids[:600] %= 2  # two ids that many rows have, and of different click rates
    fold = np.arange(rows) // 4 % yardsticks.FOLDS
    whole, others = yardsticks._TargetEncoding.fit(ids, np.ones((rows, 1), bool), rows, batch(label), fold)
    own = others.rate[fold, ids[:, 0]]
    assert np.allclose(own[600:], label.mean())
    assert np.all(others.count[fold, ids[:, 0]][600:] == 0)
    assert np.all(whole.count[600:] == 1)
    assert abs(whole.rate[0] - 0.5) < 0.02 and whole.rate[1] < 0.02, "much evidence is hardly smoothed"
    assert abs(own[0] - 0.5) < 0.03 and own[1] < 0.03


def test_smoothing_is_the_variance_of_a_row_over_that_between_ids() -> None:
    rng = np.random.default_rng(0)
    ids, rows = 500, 100_000
    entry = rng.integers(0, ids, rows)
    rate = 0.1 + 0.03 * rng.normal(size=ids).clip(-3, 3)
    label = (rng.random(rows) < rate[entry]).astype(float)
    keep = (label == 1) | (rng.random(rows) < 0.2)
    for rows_kept, weight in ((np.ones(rows, bool), np.ones(rows)), (keep, np.where(label == 1, 1.0, 5.0))):
        w, e, y = weight[rows_kept], entry[rows_kept], label[rows_kept]
        excess = w * (y - np.average(y, weights=w))
        mass, deviation = np.bincount(e, w, minlength=ids), np.bincount(e, excess, minlength=ids)
        found = yardsticks._smoothing(mass, deviation, e, w, excess)
        expected = (excess**2).sum() / w.sum() / rate.var()
        assert expected / 1.4 < found < expected * 1.4


def test_weights_undo_the_sampling_of_negatives() -> None:
    data, spec, p = linear(120_000, intercept=-3.0)
    rng = np.random.default_rng(1)
    label = data.label.numpy()
    kept = np.flatnonzero((label[:90_000] == 1) | (rng.random(90_000) < 0.1))
    sampled = data.take(torch.from_numpy(kept))
    sampled = replace(sampled, weight=torch.where(sampled.label == 1, 1.0, 10.0))
    shuffled = torch.from_numpy(rng.permutation(len(kept)))
    train, validation = parts(sampled.take(shuffled), int(0.8 * len(kept)))
    test, truth = data.take(slice(90_000, None)), p[90_000:]
    for found in fit_yardsticks(train, validation, spec):
        predicted = sigmoid(found.logits(test))
        assert abs(predicted.mean() / truth.mean() - 1) < 0.05, found
        if found.name != "constant":
            top = predicted > np.quantile(predicted, 0.9)
            assert abs(predicted[top].mean() / truth[top].mean() - 1) < 0.1, found
    rate = np.average(sampled.label.numpy(), weights=sampled.weight.numpy())
    constant = fit_yardsticks(train, validation, spec)[0]
    assert constant.logits(test) == pytest.approx(np.log(rate / (1 - rate)))


def test_bags_sequences_and_vectors_are_read() -> None:
    rng = np.random.default_rng(0)
    rows = 40_000
    bag = np.where(rng.random((rows, 4)) < 0.6, rng.integers(1, 30, (rows, 4)), 0)
    sequence = np.where(rng.random((rows, 3)) < 0.8, rng.integers(1, 400, (rows, 3)), 0)
    vector = rng.normal(size=(rows, 3))

    def mean_effect(ids: np.ndarray, size: int) -> np.ndarray:
        effects = np.append(0, rng.normal(size=size - 1))
        return effects[ids].sum(axis=1) / np.maximum((ids > 0).sum(axis=1), 1)

    p = sigmoid(-1.5 + 1.3 * mean_effect(bag, 30) + 1.0 * mean_effect(sequence, 400) + 0.5 * vector[:, 1])
    data = batch((rng.random(rows) < p).astype(float), tags=bag, recent=sequence, text=vector)
    spec = InputSpec(bags={"tags": (30, 4)}, sequences={"recent": (400, 3)}, vectors={"text": 3})
    train, validation, test = parts(data, 20_000, 24_000)
    best = roc_auc_score(test.label.numpy(), p[24_000:])
    for found in by_name(fit_yardsticks(train, validation, spec)):
        assert auc(found, test) > best - 0.03, found


def test_many_ids_are_hashed_and_the_unknown_one_keeps_its_column() -> None:
    few = np.arange(100)
    assert yardsticks._places(few, 100)[1] == 100
    many = np.arange(1_000_000)
    column, width = yardsticks._places(many, len(many))
    assert width == yardsticks.ONE_HOT_IDS
    assert column[0] == 0 and column[1:].min() >= 1 and column.max() < width
    shared = np.bincount(column[1:], minlength=width)[1:]
    assert shared.min() > 0 and shared.max() < 2 * shared.mean()


def test_validation_chooses_and_nothing_else() -> None:
    data, spec, _ = noise(6000, ids=30, slope=1.0)
    train, other, test = parts(data, 4000, 5000)
    shuffled = replace(
        other, label=other.label[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    )
    by_heart = by_name(fit_yardsticks(train, train, spec, refit=False))
    honest = by_name(fit_yardsticks(train, other, spec, refit=False))
    hopeless = by_name(fit_yardsticks(train, shuffled, spec, refit=False))
    strengths = [found[0].chosen["C"] for found in (by_heart, honest, hopeless)]
    trees = [found[1].chosen["trees"] for found in (by_heart, honest, hopeless)]
    assert strengths[0] == yardsticks.STRENGTHS[-1] and strengths[0] > strengths[1] >= strengths[2]
    assert trees[0] == yardsticks.MOST_TREES > trees[1] > trees[2]
    assert by_heart[1].chosen["depth"] == 8
    refitted = by_name(fit_yardsticks(train, other, spec))
    for one, two in zip(honest, refitted, strict=True):
        assert one.chosen == two.chosen
        assert (one.rows, two.rows) == (4000, 5000)
        assert not np.array_equal(one.logits(test), two.logits(test))


def test_the_weights_of_validation_rows_count_in_the_choice() -> None:
    """Rows whose labels are shuffled change nothing when they weigh next to nothing."""
    data, spec, _ = noise(6000, ids=200, slope=1.0)
    train, good, bad = parts(data, 4000, 5000)
    bad = replace(bad, label=1 - bad.label, weight=torch.full((1000,), 1e-7))
    expected = [found.chosen for found in fit_yardsticks(train, good, spec, refit=False)]
    found = fit_yardsticks(train, Batch.concat([good, bad]), spec, refit=False)
    assert [one.chosen for one in found] == expected


def test_the_same_seed_gives_the_same_yardsticks_and_they_can_be_sent() -> None:
    data, spec, _ = noise(3000, ids=400, slope=1.0)
    train, validation, test = parts(data, 2000, 2500)
    one, two = (fit_yardsticks(train, validation, spec, seed=3) for _ in range(2))
    for first, second in zip(one, two, strict=True):
        assert first.chosen == second.chosen
        logits = first.logits(test)
        assert np.array_equal(logits, second.logits(test))
        assert np.array_equal(logits, pickle.loads(pickle.dumps(first)).logits(test))
        assert logits.dtype == np.float64 and logits.shape == (500,)


def test_without_validation_nothing_is_chosen() -> None:
    data, spec, _ = linear(2000)
    train, validation = parts(data, 1500)
    one_class = replace(validation, label=torch.zeros(500))
    for given in (None, one_class, validation.take(slice(0, 0))):
        found = fit_yardsticks(train, given, spec)
        assert [one.chosen for one in found] == [{}, {"C": 1.0}, {"depth": 4, "trees": 100}]
        assert {one.rows for one in found} == {1500}


ODD: dict[str, tuple[InputSpec, dict[str, np.ndarray]]] = {
    "no categories": (InputSpec(numbers=("a",)), {"dense": np.linspace(0, 1, 400)[:, None]}),
    "no numbers": (InputSpec({"a": 7}), {"cat": np.arange(400)[:, None] % 7}),
    "a constant number": (InputSpec(numbers=("a",)), {"dense": np.full((400, 1), 0.1)}),
    "a category of one id": (InputSpec({"a": 1}), {"cat": np.zeros((400, 1), int)}),
    "one id of many": (InputSpec({"a": 900}), {"cat": np.full((400, 1), 5)}),
    "32 ids": (InputSpec({"a": 32}), {"cat": np.arange(400)[:, None] % 32}),
    "33 ids": (InputSpec({"a": 33}), {"cat": np.arange(400)[:, None] % 33}),
    "only new ids in the test": (InputSpec({"a": 100}), {"cat": np.arange(400)[:, None] // 4}),
    "an id a row": (InputSpec({"a": 50_000}), {"cat": np.arange(400)[:, None] * 100}),
    "empty bags": (InputSpec(bags={"a": (9, 3)}), {"a": np.zeros((400, 3), int)}),
    "numbers not finite": (
        InputSpec(numbers=("a", "b")),
        {"dense": np.stack([np.resize([np.nan, 1.0, np.inf, -np.inf], 400), np.full(400, np.nan)], axis=1)},
    ),
    "far numbers": (InputSpec(numbers=("a",)), {"dense": np.resize([1.0, 2.0, 3e38], 400)[:, None]}),
}


@pytest.mark.parametrize("rows", [50, 400])
@pytest.mark.parametrize("case", ODD)
def test_odd_rows_are_no_failure(case: str, rows: int) -> None:
    spec, inputs = ODD[case]
    label = np.random.default_rng(0).random(400) < 0.2
    data = batch(label.astype(float), **inputs)
    train, validation, test = parts(data.take(slice(0, rows)), rows // 2, 3 * rows // 4)
    for given in (validation, None):
        found = fit_yardsticks(train, given, spec)
        assert [one.name for one in found] == NAMES
        for one in found:
            assert np.isfinite(one.logits(test)).all(), one


def test_one_class_or_no_input_leaves_the_constant() -> None:
    data, spec, _ = linear(200)
    clicks = replace(data, label=torch.ones(200))
    for given, of in ((clicks, spec), (replace(data, label=torch.zeros(200)), spec), (data, InputSpec())):
        (constant,) = fit_yardsticks(given, data, of, refit=False)
        p = sigmoid(constant.logits(data))
        assert constant.name == "constant" and np.isfinite(p).all()
        assert p == pytest.approx(np.clip(given.label.numpy().mean(), 1e-7, 1 - 1e-7), rel=1e-6)
    with pytest.raises(DataError, match="no training row"):
        fit_yardsticks(data.take(slice(0, 0)), None, spec)
