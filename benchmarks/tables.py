"""Three generated click tables with known click probabilities, on which models are compared with yardsticks.

========= ============================================================ =====================
table     what the log-odds are made of                                who should do well
========= ============================================================ =====================
`linear`  effects of ids, categories and numbers, added up             logistic regression
`crossed` products of two columns, hardly any effect of one alone      trees, crossing models
`wide`    a few of 60 columns, two of them ids of which most are rare  whoever ignores noise
========= ============================================================ =====================

Every table is a data frame with ``user_id`` (str), ``item_id`` (str), further categories (str), numbers (float64),
``event_ts`` (UTC, milliseconds, ascending and distinct, over five days), ``label`` (int64, 0 or 1) and ``p``
(float64, the true probability; keep it from a model). The AUC of ``p`` is what no model can pass on average.
The same rows and seed give the same table.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DAYS = 5
FIRST_MS = 1_767_225_600_000  # 2026-01-01 UTC, milliseconds
STEPS = 60  # halvings of an interval of 40 logits

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


def linear(rows: int = 50_000, seed: int = 0) -> pd.DataFrame:
    """Log-odds linear in ids and numbers: what logistic regression assumes.

    Columns: ``user_id`` (1,000), ``item_id`` (300), ``device`` (3), ``region`` (20), ``price``, ``age``,
    ``rating`` and ``noise`` (no effect). Click rate .08.
    """
    rng = np.random.default_rng(seed)
    ids = {
        "user_id": zipf(rng, rows, 1000, 0.8),
        "item_id": zipf(rng, rows, 300, 0.8),
        "device": rng.integers(0, 3, rows),
        "region": zipf(rng, rows, 20, 1.0),
    }
    numbers = {name: rng.normal(size=rows) for name in ("price", "age", "rating", "noise")}
    score = (
        0.4 * effect(rng, ids["user_id"], 1000)
        + 0.7 * effect(rng, ids["item_id"], 300)
        + 0.4 * effect(rng, ids["device"], 3)
        + 0.3 * effect(rng, ids["region"], 20)
        - 0.5 * numbers["price"]
        + 0.2 * numbers["age"]
        + 0.4 * numbers["rating"]
    )
    return frame(rng, ids, numbers, score, rate=0.08, spread=1.1)


def crossed(rows: int = 50_000, seed: int = 0) -> pd.DataFrame:
    """Log-odds of products: of two numbers, of two categories, and of a category with a number.

    Columns: ``user_id`` (1,000), ``item_id`` (300), ``segment`` (6), ``category`` (10), ``device`` (3), ``price``,
    ``income``, ``hour`` (0 to 24, matters by its distance from noon) and ``noise``. Click rate .08.
    """
    rng = np.random.default_rng(seed)
    ids = {
        "user_id": zipf(rng, rows, 1000, 0.8),
        "item_id": zipf(rng, rows, 300, 0.8),
        "segment": rng.integers(0, 6, rows),
        "category": rng.integers(0, 10, rows),
        "device": rng.integers(0, 3, rows),
    }
    numbers = {name: rng.normal(size=rows) for name in ("price", "income", "noise")}
    numbers["hour"] = rng.uniform(0, 24, rows)
    by_device = effect(rng, ids["device"], 3)
    score = (
        0.8 * numbers["price"] * numbers["income"]
        + 0.7 * effect(rng, ids["segment"] * 10 + ids["category"], 60)
        + 0.4 * by_device * numbers["price"]
        + 0.4 * (np.abs(numbers["hour"] - 12) - 6) / np.sqrt(12)
        + 0.2 * effect(rng, ids["item_id"], 300)
    )
    return frame(rng, ids, numbers, score, rate=0.08, spread=1.2)


def wide(rows: int = 50_000, seed: int = 0) -> pd.DataFrame:
    """Sixty columns, of which nine matter; eight are ids by the thousand, most of them rare (Zipf).

    Columns: ``user_id`` (20,000), ``item_id`` (5,000), ``campaign_id`` (2,000), ``id_3`` .. ``id_7`` (10,000 each),
    ``category_0`` .. ``category_19`` (3 to 60) and ``number_0`` .. ``number_31``. What matters: ``item_id``,
    ``campaign_id``, ``category_0`` .. ``category_2``, ``number_0`` .. ``number_3``, and the product of the first
    two numbers. Click rate .06.
    """
    rng = np.random.default_rng(seed)
    ids = {
        "user_id": zipf(rng, rows, 20_000, 0.9),
        "item_id": zipf(rng, rows, 5000, 1.0),
        "campaign_id": zipf(rng, rows, 2000, 1.1),
    }
    ids |= {f"id_{k}": zipf(rng, rows, 10_000, 1.0) for k in range(3, 8)}
    ids |= {f"category_{k}": zipf(rng, rows, 3 + 3 * k, 0.5) for k in range(20)}
    numbers = {f"number_{k}": rng.normal(size=rows) for k in range(32)}
    score = (
        0.7 * effect(rng, ids["item_id"], 5000)
        + 0.6 * effect(rng, ids["campaign_id"], 2000)
        + sum(0.35 * effect(rng, ids[f"category_{k}"], 3 + 3 * k) for k in range(3))
        + 0.4 * numbers["number_0"]
        - 0.3 * numbers["number_1"]
        + 0.3 * np.maximum(numbers["number_2"], 0)
        + 0.3 * np.sign(numbers["number_3"])
        + 0.4 * numbers["number_0"] * numbers["number_1"]
    )
    return frame(rng, ids, numbers, score, rate=0.06, spread=1.2)


def zipf(rng: np.random.Generator, rows: int, ids: int, exponent: float) -> Ids:
    """Ids 0 .. ids - 1, int64 [rows]; the k-th is drawn with a probability proportional to k ** -exponent."""
    mass = np.cumsum(np.arange(1, ids + 1, dtype=np.float64) ** -exponent)
    return np.minimum(np.searchsorted(mass, rng.random(rows) * mass[-1], side="right"), ids - 1)


def effect(rng: np.random.Generator, ids: Ids, size: int) -> Floats:
    """A standard normal effect an id, float64 [rows]; over the ids its mean is 0 and its sd 1."""
    drawn = rng.normal(size=size)
    return ((drawn - drawn.mean()) / drawn.std())[ids]


def frame(
    rng: np.random.Generator,
    ids: dict[str, Ids],
    numbers: dict[str, Floats],
    score: Floats,
    *,
    rate: float,
    spread: float,
) -> pd.DataFrame:
    """The table of a score, scaled to log-odds with standard deviation ``spread`` and mean probability ``rate``."""
    rows = len(score)
    logit = spread * (score - score.mean()) / score.std()
    low, high = -20.0, 20.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(logit + middle).mean() < rate else (low, middle)
    p = sigmoid(logit + low)
    width = DAYS * 86_400_000 / rows  # a row has a slot of its own, so no two share a time
    times = FIRST_MS + ((np.arange(rows) + rng.random(rows)) * width).astype(np.int64)
    columns: dict[str, object] = {
        name: np.char.add(f"{name.removesuffix('_id')}_", value.astype(str)) for name, value in ids.items()
    }
    return pd.DataFrame(
        {
            **columns,
            **numbers,
            "event_ts": pd.to_datetime(times, unit="ms", utc=True),
            "label": (rng.random(rows) < p).astype(np.int64),
            "p": p,
        }
    )


def sigmoid(logit: Floats) -> Floats:
    """Probability of log-odds."""
    return 1.0 / (1.0 + np.exp(-logit))
