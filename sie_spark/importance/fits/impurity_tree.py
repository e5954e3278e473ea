"""A decision tree of the label, by scikit-learn on a sample of training rows; it travels as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import numpy as np
from sklearn.model_selection import KFold
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from sie_spark.importance.contracts import Fit, Given, Seen, State
from sie_spark.importance.design import Inputs, Numbers, lookup, mean_one, sample_inputs
from sie_spark.importance.fits.linear import two_labels
from sie_spark.importance.fits.row_sample import RowSample
from sie_spark.platform.inputs import InputSpec

LEAF = 0.01  # share of the sample that a leaf has at least
FOLDS = 5
PRIOR = 20.0  # rows at the mean that are added to those of an id


@dataclass(frozen=True)
class ImpurityTree(Fit):
    """A tree as scikit-learn grows it by Gini impurity, with leaves of 1 % of the sampled rows and more.

    It splits standardised numbers, the number of items of bags and sequences, and of each category the click rate of
    the id, smoothed towards the mean by 20 rows. So that the tree does not learn by heart what an id of few rows says
    of these very rows, each sampled row is encoded by the others' folds. Ids that the sample does not have get the
    mean.

    The artefact holds, by node, ``feature``, ``left`` and ``right`` int64, -1 at a leaf; ``threshold`` and
    ``impurity`` float64; by category ``ids_<n>`` int64, ascending, and their ``rates_<n>`` float64; the ``rate`` of
    all rows; and ``mean`` and ``scale`` of the numbers.

    Parameters
    ----------
    sample_rows:
        setting ``importance.sample_rows``.
    """

    sample_rows: int

    name: ClassVar[str] = "impurity_tree"
    rows: ClassVar[Literal["train", "validation"] | None] = None

    def after(self) -> tuple[Fit, ...]:
        """The sample."""
        return (RowSample("train", self.sample_rows),)

    def finish(self, state: State, given: Given) -> State:
        """On the driver.

        Raises
        ------
        DataError
            where the sample has one label only.
        """
        sample, spec = given.states[self.after()[0].key], given.inputs
        labels, weight, inputs = two_labels(sample), mean_one(sample["weight"]), sample_inputs(sample)
        numbers = Numbers.fit(spec, inputs, weight)
        known = _rates(spec, inputs, labels, weight) | {"mean": numbers.mean, "scale": numbers.scale}
        columns = tree_columns(spec, inputs, known)
        rows = np.arange(len(labels))
        for train, rest in KFold(min(FOLDS, len(rows))).split(rows):
            fold = {name: values[train] for name, values in inputs.items()}
            others = known | _rates(spec, fold, labels[train], weight[train])
            columns[rest] = tree_columns(
                spec, {name: values[rest] for name, values in inputs.items()}, others
            )
        model = DecisionTreeClassifier(min_samples_leaf=ceil(LEAF * len(rows)), random_state=0)
        with threadpool_limits(1):
            tree = model.fit(columns, labels, sample_weight=weight).tree_
        return known | {
            "feature": np.where(tree.children_left < 0, -1, tree.feature),
            "left": tree.children_left,
            "right": tree.children_right,
            "threshold": tree.threshold,
            "impurity": np.maximum(tree.impurity, 0.0),
        }

    def values(self, seen: Seen, given: Given) -> np.ndarray:
        """Impurity of the leaf of rows of a pass, float64 [N]."""
        state = given.states[self.key]
        inputs = {name: found.numpy() for name, found in seen.batch.inputs.items()}
        return state["impurity"][leaves(state, tree_columns(given.inputs, inputs, state))]


def leaves(tree: State, columns: np.ndarray) -> np.ndarray:
    """The node that each row ends at, int64 [N]: all rows go down by one node at a time."""
    node, rows = np.zeros(len(columns), np.int64), np.arange(len(columns))
    while True:
        rows = rows[tree["left"][node[rows]] >= 0]
        if not len(rows):
            return node
        at = node[rows]
        low = columns[rows, tree["feature"][at]] <= tree["threshold"][at]
        node[rows] = np.where(low, tree["left"][at], tree["right"][at])


def tree_columns(spec: InputSpec, inputs: Inputs, known: State) -> np.ndarray:
    """What the tree splits, float32 [N, F + D + bags and sequences], as scikit-learn holds it."""
    rates = [_rate(known, field, inputs["cat"][:, field]) for field in range(len(spec.categories))]
    numbers = Numbers(known["mean"], known["scale"])(spec, inputs)
    items = [(inputs[name] > 0).sum(1) for name in (*spec.bags, *spec.sequences)]
    return np.column_stack([*rates, numbers, *items]).astype(np.float32)


def _rate(known: State, field: int, ids: np.ndarray) -> np.ndarray:
    place, has = lookup(known[f"ids_{field}"], ids)
    return np.where(has, np.append(known[f"rates_{field}"], 0.0)[place], known["rate"])


def _rates(spec: InputSpec, inputs: Inputs, labels: np.ndarray, weight: np.ndarray) -> State:
    """Click rates by id, smoothed, and of all rows."""
    rate = float(np.average(labels, weights=weight))
    found = {"rate": np.array(rate)}
    for field in range(len(spec.categories)):
        ids, row = np.unique(inputs["cat"][:, field], return_inverse=True)
        rows, clicks = np.bincount(row, weight), np.bincount(row, weight * labels)
        found |= {f"ids_{field}": ids, f"rates_{field}": (clicks + PRIOR * rate) / (rows + PRIOR)}
    return found
