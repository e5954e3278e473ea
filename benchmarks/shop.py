"""Tables of the simulated shop with the true click probability of every row; no event log is written.

``sie_spark.simulator`` gives impressions and clicks; a model sees of them what a search log shows, encoded as the
``encode`` stage would: ids that fewer training rows than ``LEAST`` have become 0, numbers are standardised. Lists come
in the order of time. The first ones are the rows (their last tenth is the validation part), the later ones are fresh
rows to test on: without drift all of them come from one world, and no list is in two parts. The true probability of
the fresh rows is kept beside them, so that a test needs no luck: see :func:`expected_auc`.

A file holds what ``fits.keep`` writes, and ``p`` (float32, of the test part).
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml
from numpy.typing import NDArray

from sie_spark.platform.inputs import InputSpec

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

LEAST = 5  # training rows of an id that is known
CATEGORIES = (
    "user",
    "item",
    "query",
    "query_style",
    "query_category",
    "category",
    "device",
    "position",
    "step",
    "on_topic",
)
NUMBERS = ("log_price", "hour")


@dataclass(frozen=True)
class Table:
    """A simulated table.

    Parameters
    ----------
    rate:
        mean click probability.
    rows, fresh:
        training and validation rows together; test rows.
    bias:
        position bias: at .6 no click rate above .44 can be reached.
    """

    rate: float
    rows: int
    fresh: int
    bias: float = 0.6

    @property
    def settings(self) -> dict[str, Any]:
        """Of the simulator: about 50 rows a user and 200 an item, as in the million rows of 20,000 users."""
        return {
            "impressions": self.rows + self.fresh,
            "days": 10,
            "users": max(5_000, self.rows // 50),
            "items": max(2_000, self.rows // 200),
            "queries": 200,
            "base_rate": self.rate,
            "position_bias": self.bias,
            "drift": 0.0,
        }


TABLES = {
    "sim-1": Table(0.01, 250_000, 250_000),
    "sim-4": Table(0.04, 250_000, 250_000),
    "sim-15": Table(0.15, 250_000, 250_000),
    "sim-40": Table(0.40, 250_000, 250_000, bias=0.2),
    "sim-2-1M": Table(0.02, 1_000_000, 1_000_000),
    "sim-2-4M": Table(0.02, 4_000_000, 400_000),
    "sim-4-quick": Table(0.04, 20_000, 20_000),
}


def made(name: str, root: Path) -> str:
    """The file of a table, made unless it is there."""
    file = root / f"{name}.pt"
    if not file.exists():
        parts, sizes, p = encoded(drawn(TABLES[name]), TABLES[name].rows)
        held = {
            "inputs": json.dumps(InputSpec(sizes, NUMBERS).as_dict()),
            "parts": parts,
            "config": str(config(root)),
            "p": p,
        }
        torch.save(held, file.with_suffix(".part"))
        file.with_suffix(".part").rename(file)
    return str(file)


def config(root: Path) -> Path:
    """A configuration: where the search for settings begins."""
    path = root / "shop.yaml"
    features = [{"column": name, "kind": "category"} for name in CATEGORIES]
    dataset = {
        "name": "shop",
        "kind": "tabular",
        "source": {"format": "parquet"},
        "columns": {name: name for name in ("event_ts", "label", *CATEGORIES, *NUMBERS)}
        | {"event_id": "row"},
        "event_key": ["event_id"],
        "features": [*features, *({"column": name, "kind": "number"} for name in NUMBERS)],
    }
    training = {"epochs": 2, "batch_size": 512, "learning_rate": 2e-3}
    path.write_text(yaml.safe_dump({"dataset": dataset, "model": {"name": "dcnv2"}, "training": training}))
    return path


def drawn(table: Table) -> dict[str, np.ndarray]:
    """The rows as columns, in the order of their lists."""
    from pyspark.sql import functions as F

    from sie_spark.platform.config import Session, Simulator
    from sie_spark.platform.session import local_session
    from sie_spark.simulator.records import outcomes
    from sie_spark.simulator.world import impressions, solve_intercept

    spark = local_session(Session(memory="3g"))  # type: ignore[call-arg]
    settings = Simulator(**table.settings)
    happened = outcomes(impressions(spark, settings), settings, solve_intercept(spark, settings))
    hour = (F.col("ts") / F.lit(3_600_000)) % F.lit(24)
    columns = [
        F.col("list").cast("int"),
        *[F.col(name).cast("int") for name in CATEGORIES if name != "on_topic"],
        F.col("price").cast("float"),
        hour.cast("float").alias("hour"),
        F.col("click_probability").cast("float").alias("p"),
        F.col("true_click").cast("int").alias("label"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        happened.select(*columns).write.parquet(f"{folder}/rows")
        frame = pq.read_table(f"{folder}/rows")
    found = {name: frame.column(name).to_numpy() for name in frame.column_names}
    order = np.lexsort((found["position"], found["list"]))
    found = {name: values[order] for name, values in found.items()}
    found["on_topic"] = (found["category"] == found["query_category"]).astype(np.int32)
    found["log_price"] = np.log(found["price"])
    return found


def encoded(found: dict[str, np.ndarray], rows: int) -> tuple[dict[str, Any], dict[str, int], torch.Tensor]:
    """The three parts, the number of ids of every category, and p of the test part."""
    cuts = [0, rows * 9 // 10, rows, len(found["label"])]
    cuts = [int(np.searchsorted(found["list"], found["list"][min(cut, cuts[-1] - 1)])) for cut in cuts[:-1]]
    cuts.append(len(found["label"]))
    train = slice(cuts[0], cuts[1])
    codes, sizes = {}, {}
    for name in CATEGORIES:
        codes[name], sizes[name] = coded(found[name], train)
    dense = np.column_stack([standardised(found[name], train) for name in NUMBERS])
    parts: dict[str, Any] = {}
    for name, low, high in zip(("train", "validation", "test"), cuts, cuts[1:], strict=False):
        here = slice(low, high)
        cat = np.column_stack([codes[key][here] for key in CATEGORIES])
        parts[name] = {
            "inputs": {"cat": torch.from_numpy(cat), "dense": torch.from_numpy(dense[here].copy())},
            "label": torch.from_numpy(found["label"][here].astype(np.float32)),
            "offset": torch.zeros(high - low),
            "weight": torch.ones(high - low),
            "sample_id": torch.arange(low, high),
        }
    return parts, sizes, torch.from_numpy(found["p"][cuts[2] :].copy())


def coded(values: np.ndarray, train: slice) -> tuple[Codes, int]:
    """Codes 1, 2, ... of the values that enough training rows have, 0 of all others; how many codes there are."""
    counts = np.bincount(values[train], minlength=int(values.max()) + 1)
    known = counts >= LEAST
    code = np.where(known, np.cumsum(known), 0)
    return code[values].astype(np.int64), int(known.sum()) + 1


def standardised(values: np.ndarray, train: slice) -> np.ndarray:
    """Mean 0 and standard deviation 1 over the training rows, float32."""
    mean, sd = values[train].mean(dtype=np.float64), values[train].std(dtype=np.float64)
    return ((values - mean) / sd).astype(np.float32)


def expected_auc(score: Floats, p: Floats) -> float:
    """The AUC of a score where each row is p positives and 1 - p negatives: the sampled label brings no noise.

    P(score of a positive > score of a negative) + half of P(equal), the two drawn independently. A score equal
    for all rows gives .5; with p of 0 and 1 alone it is the usual AUC.
    """
    order = np.argsort(score, kind="stable")
    score, p = np.asarray(score, np.float64)[order], np.asarray(p, np.float64)[order]
    first = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])  # of rows with one score
    positive, negative = np.add.reduceat(p, first), np.add.reduceat(1.0 - p, first)
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))
