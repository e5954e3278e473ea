"""Yardsticks: plain models, fitted on the same split, that say what a network must beat to be worth its cost.

A constant, logistic regression (L2, ids one-hot) and gradient boosted trees (Friedman 2001) on histograms as in
LightGBM (Ke et al. 2017); categories of many ids reach the trees as out-of-fold target encodings (Micci-Barreca 2001).
Each reads the same encoded rows as the networks. Each has one or two settings, which the validation part chooses.
numpy and scikit-learn only, on a sample in memory and on one thread: where others work on the same cores, OpenMP's
threads wait for each other at every tree, and what takes seconds takes minutes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from sie_spark.models.batch import Batch
from sie_spark.platform.config.arms import YARDSTICKS
from sie_spark.platform.errors import DataError
from sie_spark.platform.inputs import InputSpec

CLIP = 1e-7  # least and, from 1, greatest probability

# logistic regression
ONE_HOT_IDS = 16_384  # a category, bag or sequence of more ids is hashed into as many columns
LIMIT = 5.0  # standard deviations at which a standardised number is cut
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # C, inverse L2 penalties, strongest penalty first
STRENGTH = 1.0  # without validation
TOLERANCE = 1e-4  # greatest entry of the gradient of the mean loss, relative to the click rate
ITERATIONS = 300  # of L-BFGS

# boosted trees
NATIVE_IDS = 32  # a category of more ids is target-encoded; splits by set learn noise by heart beyond that
BINS = 255  # of a column
FOLDS = 5
LEARNING_RATE = 0.1
LEAVES = 31
DEPTHS = (4, 8, 2)  # 2 only where 8 is no better than 4
DEPTH = 4  # without validation
MOST_TREES = 300
TREES = 100  # without validation
PATIENCE = 10  # trees that do not lower the validation loss

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Yardstick:
    """A fitted baseline.

    Parameters
    ----------
    name:
        ``constant``, ``logistic_regression`` or ``boosted_trees``.
    title:
        the name for people.
    chosen:
        the settings that validation chose, or the default ones where there was none; plain data.
        ``{}``, ``{"C": 0.1}`` or ``{"depth": 4, "trees": 87}``.
    rows:
        number of rows it was fitted on.
    log_odds:
        the fitted function, batch -> float64 [N]; it can be pickled.
    """

    name: str
    title: str
    chosen: dict[str, Any]
    rows: int
    log_odds: Callable[[Batch], Floats] = field(repr=False)

    def logits(self, batch: Batch) -> Floats:
        """Log-odds of a click, float64 [N]; finite, as probabilities are clipped to [1e-7, 1 - 1e-7]."""
        bound = np.log1p(-CLIP) - np.log(CLIP)
        with threadpool_limits(1):
            return np.clip(self.log_odds(batch), -bound, bound)


def fit_yardsticks(
    train: Batch,
    validation: Batch | None,
    spec: InputSpec,
    *,
    seed: int = 0,
    refit: bool = True,
    names: Sequence[str] = YARDSTICKS,
) -> list[Yardstick]:
    """Fit the baselines; all of them minimise the log-loss, weighted by ``weight``. Offsets are ignored.

    Parameters
    ----------
    train:
        N rows, at most some 100,000. ``weight`` is positive, e.g. 1 / sampling rate.
    validation:
        rows that choose the settings, by weighted log-loss. None, or rows of one class: default settings, and
        the rows are not used.
    spec:
        shape of the inputs.
    seed:
        of the folds of the target encoding. The same seed and rows give the same baselines.
    refit:
        after the choice, fit again on train and validation with the chosen settings.
    names:
        which are fitted beside the constant.

    Returns
    -------
    list of Yardstick
        the constant, logistic regression, boosted trees; the constant alone where train has one class, or rows
        have no input.

    Raises
    ------
    DataError
        when train has no row.

    References
    ----------
    Friedman (2001), Greedy function approximation: a gradient boosting machine.
    Ke et al. (2017), LightGBM: a highly efficient gradient boosting decision tree.
    Micci-Barreca (2001), A preprocessing scheme for high-cardinality categorical attributes.
    """
    if not len(train):
        raise DataError(
            "the yardsticks have no training row",
            remedy="look at the split: 'dataset.split' must leave rows to train on",
        )
    if validation is not None and not _both_classes(validation):
        validation = None
    final = Batch.concat([train, validation]) if validation is not None and refit else train
    rows = len(final)
    rate = float(np.average(_label(final), weights=_weight(final)))
    with np.errstate(divide="ignore"):
        constant = float(np.log(rate) - np.log1p(-rate))
    found = [Yardstick("constant", "a constant", {}, rows, partial(_constant, constant))]
    if not _both_classes(train) or not any(
        (spec.categories, spec.numbers, spec.vectors, spec.bags, spec.sequences)
    ):
        return found
    for name, title, choose, fit in (
        ("logistic_regression", "logistic regression", _choose_logistic, _fit_logistic),
        ("boosted_trees", "boosted trees", _choose_trees, _fit_trees),
    ):
        if name not in names:
            continue
        with threadpool_limits(1):
            chosen = choose(train, validation, spec, seed)
            found.append(Yardstick(name, title, chosen, rows, fit(final, spec, seed, **chosen)))
    return found


def _constant(value: float, batch: Batch) -> Floats:
    return np.full(len(batch), value)


# --- logistic regression


@dataclass(frozen=True)
class _Design:
    """The design matrix of logistic regression.

    One column an id (or a hash of it), an id of a bag divided by the bag's length; numbers, vectors and
    log(1 + length of a bag) standardised on the training rows.
    """

    spec: InputSpec
    mean: Floats
    scale: Floats

    @classmethod
    def fit(cls, batch: Batch, spec: InputSpec) -> _Design:
        """Means and standard deviations, weighted; values that are not finite are left out."""
        numbers, weight = _numbers(batch, spec), _weight(batch)[:, None]
        finite = np.isfinite(numbers)
        mass = np.maximum((finite * weight).sum(axis=0), 1e-300)
        numbers = np.where(finite, numbers, 0.0)
        mean = (numbers * weight).sum(axis=0) / mass
        variance = (finite * weight * (numbers - mean) ** 2).sum(axis=0) / mass
        scale = np.sqrt(variance)
        return cls(spec, mean, np.where(scale > 1e-9 * np.abs(mean), scale, np.inf))  # a constant becomes 0

    def matrix(self, batch: Batch) -> sparse.csr_matrix:
        """Sparse float64 [N, columns]."""
        rows = len(batch)
        with np.errstate(invalid="ignore"):  # an infinite value of a constant; it becomes 0 below
            standard = np.clip((_numbers(batch, self.spec) - self.mean) / self.scale, -LIMIT, LIMIT)
        blocks = [sparse.csr_matrix(np.nan_to_num(standard))]
        for ids, size, kept in _id_columns(batch, self.spec):
            column, width = _places(ids, size)
            share = kept / np.maximum(kept.sum(axis=1, keepdims=True), 1)
            ends = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
            blocks.append(sparse.csr_matrix((share[kept], column[kept], ends), shape=(rows, width)))
        return sparse.hstack(blocks, format="csr")


def _places(ids: Ids, size: int) -> tuple[Ids, int]:
    """Column of each id and the number of columns; 0 keeps one to itself, others may share one by their hash."""
    if size <= ONE_HOT_IDS:
        return ids, size
    mixed = (ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)  # Knuth 1973, 6.4
    return np.where(ids == 0, 0, 1 + (mixed % np.uint64(ONE_HOT_IDS - 1)).astype(np.int64)), ONE_HOT_IDS


@dataclass(frozen=True)
class _Logistic:
    design: _Design
    coefficients: Floats
    intercept: float

    def __call__(self, batch: Batch) -> Floats:
        return self.design.matrix(batch) @ self.coefficients + self.intercept


def _choose_logistic(train: Batch, validation: Batch | None, spec: InputSpec, seed: int) -> dict[str, Any]:
    """C of the least validation loss; the search ends at the first C that is worse than the one before."""
    if validation is None:
        return {"C": STRENGTH}
    design = _Design.fit(train, spec)
    seen, judged = design.matrix(train), design.matrix(validation)
    model = _start(train, seen.shape[1])
    chosen, least = STRENGTHS[0], np.inf
    for strength in STRENGTHS:
        _descend(model, seen, train, strength)
        loss = _log_loss(model.decision_function(judged), validation)
        if loss >= least:
            break
        chosen, least = strength, loss
    return {"C": chosen}


def _fit_logistic(batch: Batch, spec: InputSpec, seed: int, *, C: float) -> _Logistic:
    design = _Design.fit(batch, spec)
    matrix = design.matrix(batch)
    model = _start(batch, matrix.shape[1])
    _descend(model, matrix, batch, C)
    return _Logistic(design, model.coef_[0], float(model.intercept_[0]))


def _start(batch: Batch, width: int) -> LogisticRegression:
    """A model to go on from: no coefficient, and the log-odds of the click rate as the intercept."""
    rate = float(np.average(_label(batch), weights=_weight(batch)))
    tolerance = TOLERANCE * min(rate, 1.0 - rate)
    model = LogisticRegression(solver="lbfgs", tol=tolerance, max_iter=ITERATIONS, warm_start=True)
    model.coef_, model.intercept_ = np.zeros((1, width)), np.array([np.log(rate) - np.log1p(-rate)])
    return model


def _descend(model: LogisticRegression, matrix: sparse.csr_matrix, batch: Batch, strength: float) -> None:
    """Fit at another C, from where the model stands. The intercept is not penalised."""
    model.set_params(C=strength)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(matrix, _label(batch), sample_weight=_relative_weight(batch))


# --- boosted trees


@dataclass(frozen=True)
class _TargetEncoding:
    """Click rate of each id, drawn to the overall rate by an empirical Bayes estimate, and how often it was seen.

    An id of weight W and click rate r becomes (W r + m p) / (W + m), p the overall rate. m is the variance of a
    row over that between ids, estimated from the rows: ids that say nothing all become p.

    Parameters
    ----------
    rate, count:
        float64 [..., ids]; a leading axis is the fold whose rows were left out.
    """

    rate: Floats
    count: Floats

    @classmethod
    def fit(
        cls, ids: Ids, kept: NDArray[np.bool_], size: int, batch: Batch, fold: Ids
    ) -> tuple[_TargetEncoding, _TargetEncoding]:
        """Of all rows, and of all but those of each fold (counts scaled to all rows).

        Parameters
        ----------
        ids, kept:
            int64 and bool [N, L]; entries that are not kept are padding.
        fold:
            int64 [N], in [0, FOLDS).
        """
        ordered = np.sort(np.where(kept, ids, -1), axis=1)
        first = np.diff(ordered, axis=1, prepend=-1) > 0  # an id counts once a row
        row, entry = np.nonzero(first)[0], ordered[first]
        weight = _relative_weight(batch)[row]
        prior = float(np.average(_label(batch), weights=_weight(batch)))
        excess = weight * (_label(batch)[row] - prior)

        def sums(values: Floats) -> Floats:
            flat = np.bincount(fold[row] * size + entry, values, minlength=FOLDS * size)
            return flat.astype(np.float64).reshape(FOLDS, size)

        by_fold = sums(weight), sums(excess), sums(np.ones(len(row)))
        mass, deviation, seen = (values.sum(axis=0) for values in by_fold)
        mass_left, deviation_left, seen_left = (values.sum(axis=0) - values for values in by_fold)
        smoothing = _smoothing(mass, deviation, entry, weight, excess)
        return (
            cls(prior + deviation / (mass + smoothing), seen),
            cls(
                prior + deviation_left / (mass_left + smoothing),
                seen_left * FOLDS / (FOLDS - 1),
            ),
        )


def _smoothing(mass: Floats, deviation: Floats, entry: Ids, weight: Floats, excess: Floats) -> float:
    """m: the variance of a row, by unit of weight, over the variance between ids (method of moments).

    The square of an id's summed deviations from the overall rate, less the squares of the single ones, has the
    expectation variance between ids * (W ** 2 - sum of squared weights). Ids are averaged by 1 / W.
    """
    if not len(entry):
        return 1.0
    there = mass > 0
    squares = np.bincount(entry, excess**2, minlength=len(mass))[there]
    weights = np.bincount(entry, weight**2, minlength=len(mass))[there]
    pairs = (mass[there] - weights / mass[there]).sum()
    between = ((deviation[there] ** 2 - squares) / mass[there]).sum() / max(pairs, 1e-300)
    within = squares.sum() / mass.sum()
    most = mass.sum()
    return float(np.clip(within / between, 1.0, most)) if between > 0 else float(most)


@dataclass(frozen=True)
class _TreeColumns:
    """The columns of the trees.

    Categories of few ids as they are; of many, the target encoding of the id and log(1 + how often it was seen).
    A bag: the mean target encoding of its ids (0 where it is empty) and log(1 + its length). Numbers and vectors as they are. All but
    the first are cut into at most BINS bins here: scikit-learn's own bins take seconds where rows have weights.
    """

    spec: InputSpec
    encodings: dict[int, _TargetEncoding]  # by place among the id columns
    native: list[int]  # columns that are categories: the first ones
    edges: list[Floats]  # inner edges of the bins of each other column, ascending; a bin holds its upper edge

    @classmethod
    def fit(cls, batch: Batch, spec: InputSpec, seed: int) -> tuple[_TreeColumns, Floats]:
        """The columns, and those of the training rows: a row's encodings come from the other folds."""
        fold = np.random.default_rng(seed).permutation(len(batch)) % FOLDS
        whole, folds = {}, {}
        for place, (ids, size, kept) in enumerate(_id_columns(batch, spec)):
            if place >= len(spec.categories) or size > NATIVE_IDS:
                whole[place], folds[place] = _TargetEncoding.fit(ids, kept, size, batch, fold)
        native, others = _uncut(batch, spec, folds, fold)
        edges = [_edges(column) for column in others.T]
        columns = cls(spec, whole, list(range(native.shape[1])), edges)
        return columns, columns._cut(native, others)

    def matrix(self, batch: Batch) -> Floats:
        """float64 [N, columns] of rows that were not fitted on."""
        return self._cut(*_uncut(batch, self.spec, self.encodings, None))

    def _cut(self, native: Floats, others: Floats) -> Floats:
        pairs = zip(self.edges, others.T, strict=True)
        return np.column_stack([native, *(np.searchsorted(edges, column) for edges, column in pairs)])


def _uncut(
    batch: Batch, spec: InputSpec, encodings: dict[int, _TargetEncoding], fold: Ids | None
) -> tuple[Floats, Floats]:
    """Columns that are categories to the trees, and the other ones: float64 [N, K] each.

    Parameters
    ----------
    fold:
        int64 [N], which fold's encodings are a row's own; None where encodings are of all rows.
    """
    native, others = [np.zeros((len(batch), 0))], []
    for place, (ids, _, kept) in enumerate(_id_columns(batch, spec)):
        if place not in encodings:
            native.append(ids.astype(np.float64))
            continue
        found = encodings[place]
        where = (ids,) if fold is None else (fold[:, None], ids)
        others.append((found.rate[where] * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1))
        if place < len(spec.categories):
            others.append(np.log1p(found.count[where][:, 0]))
    return np.column_stack(native), np.column_stack([*others, _numbers(batch, spec)])


def _edges(column: Floats) -> Floats:
    """Inner edges of at most BINS bins: between neighbours where values are few, else quantiles of the rows."""
    column = column[np.isfinite(column)]
    values = np.unique(column)
    if len(values) <= BINS:
        return (values[1:] + values[:-1]) / 2
    levels = np.arange(1, BINS) / BINS
    return np.unique(np.quantile(column, levels, method="inverted_cdf"))


@dataclass(frozen=True)
class _Trees:
    columns: _TreeColumns
    model: HistGradientBoostingClassifier

    def __call__(self, batch: Batch) -> Floats:
        return self.model.decision_function(self.columns.matrix(batch))


def _choose_trees(train: Batch, validation: Batch | None, spec: InputSpec, seed: int) -> dict[str, Any]:
    """Depth and number of trees of the least validation loss."""
    if validation is None:
        return {"depth": DEPTH, "trees": TREES}
    columns, seen = _TreeColumns.fit(train, spec, seed)
    judged = columns.matrix(validation)
    found: dict[int, tuple[float, int]] = {}
    for depth in DEPTHS:
        if depth < DEPTH and min(found, key=lambda d: found[d]) > DEPTH:
            break
        model = _grower(columns, depth, MOST_TREES, seed).set_params(
            early_stopping=True, n_iter_no_change=PATIENCE, tol=0.0
        )
        model.fit(
            seen,
            _label(train),
            _relative_weight(train),
            X_val=judged,
            y_val=_label(validation),
            sample_weight_val=_relative_weight(validation),
        )
        losses = -np.asarray(model.validation_score_)[1:]  # the first is that of no tree
        found[depth] = float(losses.min()), int(losses.argmin()) + 1
    depth = min(found, key=lambda d: found[d])
    return {"depth": depth, "trees": found[depth][1]}


def _fit_trees(batch: Batch, spec: InputSpec, seed: int, *, depth: int, trees: int) -> _Trees:
    columns, seen = _TreeColumns.fit(batch, spec, seed)
    model = _grower(columns, depth, trees, seed)
    return _Trees(columns, model.fit(seen, _label(batch), _relative_weight(batch)))


def _grower(columns: _TreeColumns, depth: int, trees: int, seed: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        learning_rate=LEARNING_RATE,
        max_iter=trees,
        max_depth=depth,
        max_leaf_nodes=LEAVES,
        categorical_features=columns.native,
        early_stopping=False,
        random_state=seed,
    )


# --- rows


def _id_columns(batch: Batch, spec: InputSpec) -> list[tuple[Ids, int, NDArray[np.bool_]]]:
    """Every category, bag and sequence: ids int64 [N, L], number of ids, and bool [N, L] what is no padding."""
    found = []
    if spec.categories:
        cat = batch.inputs["cat"].numpy()
        for place, size in enumerate(spec.categories.values()):
            ids = cat[:, place : place + 1]
            found.append((ids, size, np.ones(ids.shape, bool)))
    for name, (size, _) in {**spec.bags, **spec.sequences}.items():
        ids = batch.inputs[name].numpy()
        found.append((ids, size, ids != 0))
    return found


def _numbers(batch: Batch, spec: InputSpec) -> Floats:
    """Numbers, vectors and log(1 + length) of bags and sequences, float64 [N, D + V + bags]."""
    blocks = [np.zeros((len(batch), 0))]
    if spec.numbers:
        blocks.append(batch.inputs["dense"].numpy())
    blocks += [batch.inputs[name].numpy() for name in spec.vectors]
    for name in (*spec.bags, *spec.sequences):
        length = (batch.inputs[name].numpy() != 0).sum(axis=1, keepdims=True)
        blocks.append(np.log1p(length))
    return np.concatenate(blocks, axis=1).astype(np.float64)


def _label(batch: Batch) -> Floats:
    return batch.label.numpy().astype(np.float64)


def _weight(batch: Batch) -> Floats:
    return batch.weight.numpy().astype(np.float64)


def _relative_weight(batch: Batch) -> Floats:
    """Weights of mean 1, so that a penalty means the same at every sampling rate."""
    weight = _weight(batch)
    return weight / weight.mean()


def _both_classes(batch: Batch) -> bool:
    return len(np.unique(_label(batch))) > 1


def _log_loss(logits: Floats, batch: Batch) -> float:
    """Weighted mean log-loss, in nats."""
    losses = np.logaddexp(0.0, logits) - _label(batch) * logits
    return float(np.average(losses, weights=_weight(batch)))
