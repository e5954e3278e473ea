"""LightGBM on encoded rows: what a user of exported rows would fit, the same for every choice of rows.

Columns: numbers as they are; categories of at most ``FEW`` ids as categories; those of more ids as two numbers, the
log of how often an id occurs and its click rate, smoothed by ``PRIOR`` rows of the mean rate. Both come from all
training and validation rows, as ``history.rates`` and frozen vocabularies do, before any row is dropped; a row's own
fold (one of ``FOLDS``) is left out. Bags and sequences become one column an id, 1 where a row holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import lightgbm as lgb
import numpy as np
from fits import Rows, load, uniform
from numpy.typing import NDArray

from sie_spark.models import Batch

Floats = NDArray[np.float64]
FEW, MOST_IN_BAGS = 64, 128
PRIOR, FOLDS = 20.0, 5
ROUNDS, PATIENCE = 400, 20
PARAMETERS = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 20,
    "feature_fraction": 0.8,
    "num_threads": 1,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
}


@dataclass(frozen=True)
class Columns:
    """A set's rows as LightGBM takes them: float32 [N, D], and which columns are categories."""

    rows: NDArray[np.float32]
    label: Floats
    train: int
    test: NDArray[np.float32]
    categories: list[int]


@lru_cache(maxsize=2)
def columns(file: str) -> Columns:
    """Of training and validation rows, in this order, and of test rows."""
    rows: Rows = load(file)[0]
    both, test = rows.both, rows.test
    label = both.label.double().numpy()
    fold = (uniform(len(label), 0, "folds") * FOLDS).astype(int)
    parts: list[tuple[np.ndarray, np.ndarray]] = [
        (both.inputs["dense"].numpy(), test.inputs["dense"].numpy())
    ]
    categories: list[int] = []
    width = parts[0][0].shape[1]
    for at, size in enumerate(rows.spec.categories.values()):
        here, there = (part.inputs["cat"][:, at].numpy() for part in (both, test))
        if size <= FEW:
            parts.append((here[:, None], there[:, None]))
            categories.append(width)
        else:
            parts.append(numbers_of(here, there, label, fold, size))
        width += parts[-1][0].shape[1]
    for name, (size, _) in {**rows.spec.bags, **rows.spec.sequences}.items():
        if size <= MOST_IN_BAGS:
            parts.append((held(both, name, size), held(test, name, size)))
            width += size - 1
    tables = [np.hstack([part[side] for part in parts]).astype(np.float32) for side in (0, 1)]
    return Columns(tables[0], label, len(rows.train), tables[1], categories)


def numbers_of(
    here: np.ndarray, there: np.ndarray, label: Floats, fold: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log count and smoothed click rate of ids, [N, 2] of both parts."""
    count, clicks = (np.bincount(here, weight, size) for weight in (np.ones_like(label), label))
    mean = label.mean()

    def rate(clicks: Floats, count: Floats) -> Floats:
        return (clicks + PRIOR * mean) / (count + PRIOR)

    own = np.empty(len(here))
    for number in range(FOLDS):
        inside = fold == number
        ids = here[inside]
        count_in, clicks_in = (
            np.bincount(ids, weight, size) for weight in (np.ones(len(ids)), label[inside])
        )
        own[inside] = rate(clicks - clicks_in, count - count_in)[ids]
    frequency = np.log1p(count)
    return (
        np.column_stack([frequency[here], own]),
        np.column_stack([frequency[there], rate(clicks, count)[there]]),
    )


def held(batch: Batch, name: str, size: int) -> np.ndarray:
    """1 where a row's bag holds an id, [N, size - 1]; id 0 is padding."""
    ids = batch.inputs[name].numpy()
    found = np.zeros((len(ids), size), np.float32)
    np.put_along_axis(found, ids, 1.0, axis=1)
    return found[:, 1:]


def fitted(
    file: str, chosen: np.ndarray, pi: Floats, seed: int, offset: Floats | None = None
) -> dict[str, Any]:
    """Test log-odds of trees on chosen rows, weighted by 1 / pi (scaled to mean 1), or with a log-odds offset.

    Parameters
    ----------
    chosen:
        indices into training and validation rows; the training rows among them are fitted, and all validation rows,
        unweighted, say when to stop.
    """
    table = columns(file)
    chosen = chosen[chosen < table.train]
    label = table.label[chosen]
    weight = 1 / pi[chosen] if offset is None else np.ones(len(chosen))
    base = float(np.log(table.label[: table.train].mean() / (1 - table.label[: table.train].mean())))
    start = None if offset is None else offset[chosen] + base
    train = lgb.Dataset(
        table.rows[chosen],
        label,
        weight=weight / weight.mean(),
        init_score=start,
        categorical_feature=table.categories,
        free_raw_data=True,
    )
    valid = train.create_valid(
        table.rows[table.train :],
        table.label[table.train :],
        init_score=None if start is None else np.full(len(table.label) - table.train, base),
    )
    model = lgb.train(
        {**PARAMETERS, "seed": seed},
        train,
        ROUNDS,
        valid_sets=[valid],
        callbacks=[lgb.early_stopping(PATIENCE, verbose=False)],
    )
    logit = np.asarray(model.predict(table.test, raw_score=True)) + (0.0 if offset is None else base)
    return {"logit": logit, "rounds": model.best_iteration, "rows": len(chosen)}
