"""Neighbour scores against definitions: all subsets, one pair of rows at a time, scikit-learn's neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from sie_spark.importance import SCORERS, Given, ModelRef, Seen
from sie_spark.importance.contracts import Scorer, State
from sie_spark.importance.fits.neighbour_space import NeighbourSpace
from sie_spark.importance.plan import make_plan
from sie_spark.importance.shapley import knn_shapley, threshold_values
from sie_spark.models import Batch
from sie_spark.models.store import PILOT, REFERENCE
from sie_spark.platform.config import Importance
from sie_spark.platform.errors import ConfigError, DataError

SETTINGS = Importance(sample_rows=1000, target_rows=60, neighbours=3, neighbour_share=0.05)
Utility = Callable[[list[int]], float]


def by_subsets(players: int, utility: Utility) -> list[float]:
    """Shapley values from their definition."""
    found = []
    for player in range(players):
        others = [one for one in range(players) if one != player]
        found.append(
            sum(
                (utility([*some, player]) - utility(list(some))) / math.comb(players - 1, size) / players
                for size in range(players)
                for some in combinations(others, size)
            )
        )
    return found


@pytest.mark.parametrize(("n", "k"), [(7, 1), (7, 3), (4, 6), (1, 1)])
def test_knn_shapley_is_the_mean_over_all_orders(n: int, k: int) -> None:
    rng = np.random.default_rng(n + k)
    train, targets = rng.integers(0, 3, (n, 2)).astype(float), rng.normal(size=(5, 2))  # with ties
    labels, wanted = rng.integers(0, 2, n), rng.integers(0, 2, 5)
    weights = rng.random(5)
    each = knn_shapley(train, labels, targets, wanted, k, each=True)
    for target in range(5):
        distance = ((train - targets[target]) ** 2).sum(1)

        def utility(rows: list[int], distance: np.ndarray = distance, target: int = target) -> float:
            nearest = sorted(rows, key=lambda row: (distance[row], row))[:k]
            return sum(labels[row] == wanted[target] for row in nearest) / k

        np.testing.assert_allclose(each[target], by_subsets(n, utility), atol=1e-12)
    np.testing.assert_allclose(
        knn_shapley(train, labels, targets, wanted, k, weights=weights),
        weights @ each / weights.sum(),
        atol=1e-12,
    )


def test_knn_shapley_equals_the_published_recursion() -> None:
    """Row by row from the farthest inwards, neighbours by scikit-learn; more rows than one chunk of targets takes."""
    rng = np.random.default_rng(0)
    train, targets = rng.normal(size=(3000, 6)), rng.normal(size=(750, 6))
    labels, wanted, k = rng.integers(0, 2, 3000), rng.integers(0, 2, 750), 5
    order = NearestNeighbors(n_neighbors=3000).fit(train).kneighbors(targets, return_distance=False)
    expected = np.zeros(3000)
    for target, near in enumerate(order):
        value = float(labels[near[-1]] == wanted[target]) / 3000
        expected[near[-1]] += value
        match = (labels[near] == wanted[target]).tolist()
        for i in range(2999, 0, -1):
            value += (match[i - 1] - match[i]) / max(k, i)
            expected[near[i - 1]] += value
    np.testing.assert_allclose(
        knn_shapley(train, labels, targets, wanted, k), expected / 750, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("match", ["1", "0", "1101", "0000", "0100110"])
def test_threshold_values_are_the_mean_over_all_orders(match: str) -> None:
    """Rows outside the radius are players too, and get nothing."""
    labels, outside = [float(letter) for letter in match], 2

    def utility(rows: list[int]) -> float:
        inside = [labels[row] for row in rows if row < len(labels)]
        return sum(inside) / len(inside) if inside else 0.5

    expected = by_subsets(len(labels) + outside, utility)
    values = threshold_values(np.array([len(labels)]), np.array([match.count("1")]))[0]
    np.testing.assert_allclose(expected[: len(labels)], [values[int(label)] for label in labels], atol=1e-12)
    np.testing.assert_allclose(expected[len(labels) :], 0, atol=1e-12)


@pytest.mark.parametrize(("m", "right"), [(1, 0), (1, 1), (5, 2), (40, 39), (300, 4)])
def test_threshold_values_equal_the_formula_of_the_paper(m: int, right: int) -> None:
    """Wang et al. (2023): its second factor sums over the sizes of sets of all n rows, and is free of n."""
    for n in (m, m + 1, m + 37):
        sums = sum((1 - math.comb(n - 1 - k, m) / math.comb(n, m)) / (k + 1) for k in range(n)) - 1
        for a in [0] * (right < m) + [1] * (right > 0):
            first = a / m - (right - a) / (m * (m - 1)) if m > 1 else 0.0
            found = threshold_values(np.array([m]), np.array([right]))[0, a]
            assert found == pytest.approx(first * sums + (a - 0.5) / m, abs=1e-12)


def test_a_row_that_cannot_have_been_counted_is_one_more() -> None:
    values = threshold_values(np.array([0, 4, 4]), np.array([0, 0, 4]))
    assert values[0].tolist() == pytest.approx([-0.5, 0.5])
    assert (
        values[1, 1] == pytest.approx(threshold_values(np.array([5]), np.array([1]))[0, 1])
        and values[1, 1] > 0
    )
    assert (
        values[2, 0] == pytest.approx(threshold_values(np.array([5]), np.array([4]))[0, 0])
        and values[2, 0] < 0
    )


class Head(torch.nn.Module):
    """A model that represents a row by what it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.output = torch.nn.Linear(width, 1)

    def forward(self, dense: torch.Tensor) -> torch.Tensor:
        return self.output(dense).squeeze(1)


def rows_of(rows: int, first: int, seed: int) -> Batch:
    """Two clusters on two units of very different spread, and a unit that stands still; mostly clicks in one."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, 2, rows)
    x = np.stack([cluster + 0.2 * rng.normal(size=rows), 1000 * rng.normal(size=rows), np.full(rows, 7.0)], 1)
    label = (rng.random(rows) < np.where(cluster, 0.8, 0.1)).astype(np.float32)
    weight = torch.from_numpy(rng.uniform(1, 3, rows).astype(np.float32))
    return Batch(
        {"dense": torch.from_numpy(x.astype(np.float32))},
        torch.from_numpy(label),
        torch.zeros(rows),
        weight,
        torch.arange(first, first + rows),
    )


TRAIN, VALIDATION = rows_of(400, 0, 1), rows_of(50, 1000, 2)
MODEL = Head(3)


def look(batch: Batch) -> Seen:
    return Seen(batch, {}, {}, {REFERENCE: MODEL})


def fitted(scorer: Scorer, settings: Importance = SETTINGS, cuts: Iterable[int] = (0, 150, 400)) -> Given:
    given = Given({REFERENCE: ModelRef(REFERENCE, "", "")}, settings=settings)
    states: dict[str, State] = {}
    for fit in [fit for level in make_plan([scorer], given).levels for fit in level]:
        known, parts = replace(given, states=states), []
        whole = TRAIN if fit.rows == "train" else VALIDATION
        for rows in pairwise(cuts) if fit.rows else ():
            one = fit.open(known)
            for part in whole.take(slice(*rows)).split(64):
                one.add(look(part))
            parts.append(one.state())
        states[fit.key] = fit.finish(fit.merge(parts), known)
    return replace(given, states=states)


def score(name: str, batch: Batch, **options: object) -> np.ndarray:
    given = fitted(SCORERS[name], **options)  # type: ignore[arg-type]
    return np.concatenate([SCORERS[name].score(look(part), given).numpy() for part in batch.split(64)])


def distances(rows: Batch, targets: Batch) -> np.ndarray:
    x, weight = TRAIN.inputs["dense"].double().numpy()[:, :2], TRAIN.weight.double().numpy()
    mean = (x * weight[:, None]).sum(0) / weight.sum()
    sd = np.sqrt(((x - mean) ** 2 * weight[:, None]).sum(0) / weight.sum())
    one, two = ((part.inputs["dense"].double().numpy()[:, :2] - mean) / sd for part in (rows, targets))
    return np.linalg.norm(one[:, None] - two[None], axis=2)


def radius() -> float:
    """The distance of the twentieth of 400 rows, at the median target."""
    return float(np.median(np.sort(distances(TRAIN, VALIDATION), axis=0)[19]))


def test_the_space_is_standardised_and_its_radius_holds_the_share() -> None:
    given = fitted(SCORERS["validation_similarity"])
    state = given.states[NeighbourSpace.of(SETTINGS).key]
    assert state["units"].tolist() == [0, 1] and state["targets"].shape == (50, 2)
    assert float(state["radius"]) == pytest.approx(radius(), rel=1e-4)


def test_threshold_scores_equal_sums_over_pairs() -> None:
    inside = distances(TRAIN, VALIDATION) <= radius() * (1 + 1e-6)
    y, wanted, weight = TRAIN.label.numpy(), VALIDATION.label.numpy(), VALIDATION.weight.double().numpy()
    expected = np.zeros(400)
    for target in range(50):
        rows = np.flatnonzero(inside[:, target])
        right, m = (y[rows] == wanted[target]).astype(float), len(rows)
        harmonic = sum(1 / i for i in range(2, m + 1))
        for row, a in zip(rows, right, strict=True):
            others = (right.sum() - a) / max(1, m - 1)
            expected[row] += weight[target] / weight.sum() * ((a - 0.5) + (a - others) * harmonic) / m
    found = score("threshold_knn_shapley", TRAIN)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(
        score("threshold_knn_shapley", TRAIN, cuts=(0, 1, 399, 400)), found, atol=1e-12
    )
    helps = (TRAIN.inputs["dense"][:, 0] > 0.5).numpy() == (y > 0)  # a row with the label of most near it
    assert found[helps].mean() > 0 > found[~helps].mean()


def test_exact_scores_belong_to_training_rows() -> None:
    expected = np.zeros(400)
    d, y, k = distances(TRAIN, VALIDATION), TRAIN.label.numpy(), SETTINGS.neighbours
    weight = VALIDATION.weight.double().numpy()
    for target in range(50):
        near = np.argsort(d[:, target])
        match = (y[near] == float(VALIDATION.label[target])).astype(float)
        value = np.zeros(400)
        value[399] = match[399] / 400
        for i in range(398, -1, -1):
            value[i] = value[i + 1] + (match[i] - match[i + 1]) / max(k, i + 1)
        expected[near] += weight[target] / weight.sum() * value
    np.testing.assert_allclose(score("knn_shapley", TRAIN), expected, atol=1e-9)
    assert not score("knn_shapley", VALIDATION).any()


def test_exact_scores_refuse_what_they_cannot_hold() -> None:
    few = SETTINGS.model_copy(update={"sample_rows": 399})
    with pytest.raises(DataError, match=r"importance\.sample_rows=399.*'threshold_knn_shapley'"):
        score("knn_shapley", TRAIN, settings=few)  # neither partition has too many
    with pytest.raises(DataError, match="sample_rows"):
        score("knn_shapley", TRAIN, settings=few, cuts=(0, 400))


def test_similarity_is_a_kernel_over_the_nearest_targets() -> None:
    nearest = np.sort(distances(TRAIN, VALIDATION), axis=1)[:, :3]
    found = score("validation_similarity", TRAIN)
    np.testing.assert_allclose(
        found, np.exp(-(nearest**2) / (2 * radius() ** 2)).mean(1), rtol=1e-3, atol=1e-6
    )
    far = replace(TRAIN, inputs={"dense": TRAIN.inputs["dense"] * 1e6})
    assert found.min() >= 0 and score("validation_similarity", far).max() < 1e-6
    many = SETTINGS.model_copy(update={"neighbours": 500})  # more than there are targets
    assert score("validation_similarity", VALIDATION, settings=many).max() <= 1


@pytest.mark.parametrize("name", ["threshold_knn_shapley", "knn_shapley", "validation_similarity"])
def test_without_a_reference_the_plan_says_what_to_set(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' reads model 'reference'") as caught:
        make_plan([SCORERS[name]], Given({PILOT: ModelRef(PILOT, "", "")}))
    assert "reference.fit=true" in caught.value.remedy
