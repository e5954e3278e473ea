"""An encoded table with a planted logistic truth, as ``encode`` would leave it; for the stages after it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from sie_spark.platform.context import Context
from sie_spark.platform.inputs import InputSpec

SPEC = InputSpec(categories={"item": 50, "city": 20}, numbers=("price", "rank"))
COEFFICIENTS = np.array([1.0, -0.7])


def planted_rows(rows: int, *, base: float = -3.0, seed: int = 0) -> pd.DataFrame:
    """Encoded rows whose logit is base + x . COEFFICIENTS + an effect of the item."""
    rng = np.random.default_rng(seed)
    item, city = rng.integers(0, 50, rows), rng.integers(0, 20, rows)
    x = rng.normal(size=(rows, 2)).astype(np.float32)
    effect = np.linspace(-0.5, 0.5, 50)
    logit = base + x @ COEFFICIENTS + effect[item]
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    return pd.DataFrame(
        {
            "impression_id": [f"{seed}-{i}" for i in range(rows)],
            "position": rng.integers(1, 20, rows).astype(np.int32),
            "label": label,
            "sampling_rate": np.ones(rows, np.float32),
            "cat": list(np.stack([item, city], 1).astype(np.int32)),
            "dense": list(x),
            "day": rng.integers(1, 4, rows),
            "price": x[:, 0].astype(float),
        }
    )


def settings(**sections: Any) -> dict[str, Any]:
    """A configuration for planted tables; sections are merged over small defaults."""
    base: dict[str, Any] = {
        "dataset": {
            "name": "planted",
            "kind": "tabular",
            "columns": {"label": "label", "event_ts": "event_ts"},
            "features": [{"column": "price", "kind": "number"}],
        },
        "model": {"name": "dcnv2", "embedding_dim": 4, "hidden": [16], "cross_layers": 1},
        "training": {"distributed": False, "batch_size": 512, "learning_rate": 0.01, "tune": "off"},
        "evaluation": {"yardstick_rows": 0},
    }
    for name, values in sections.items():
        base[name] = {**base.get(name, {}), **values}
    return base


def write_samples(
    ctx: Context, frame: pd.DataFrame, *, validation_rows: int = 0, test_rows: int = 0, files: int = 2
) -> None:
    """``samples``, ``impressions`` and the encoder pointer under the context's root; the last rows are test rows."""
    from pyspark.sql import functions as F

    frame = frame.copy()
    train = len(frame) - validation_rows - test_rows
    frame["split"] = ["train"] * train + ["validation"] * validation_rows + ["test"] * test_rows
    for name in ("cat", "dense"):
        frame[name] = [list(map(float if name == "dense" else int, value)) for value in frame[name]]
    schema = (
        "impression_id string, position int, label float, sampling_rate float, cat array<int>, dense array<float>, "
        "day int, price double, split string"
    )
    rows = (
        ctx.spark.createDataFrame(frame, schema)
        .repartition(files, "impression_id")
        .withColumn("event_date", F.date_add(F.lit("2024-03-01").cast("date"), F.col("day")))
        .withColumn("event_ts", F.col("event_date").cast("timestamp"))
        .withColumn("sample_id", F.xxhash64("impression_id"))
        .withColumn("group_id", F.col("sample_id") % 97)
    )
    samples = rows.select(
        *(
            "sample_id",
            "split",
            "event_date",
            "event_ts",
            "group_id",
            "position",
            "label",
            "sampling_rate",
            "cat",
            "dense",
        )
    )
    ctx.catalog.replace(samples, "samples", fingerprint="planted", job="test")
    ctx.catalog.replace(
        rows.select("impression_id", "event_date", "price"), "impressions", fingerprint="p", job="test"
    )
    artefact = {"format_version": 1, "inputs": SPEC.as_dict()}
    path = ctx.root.write_bytes(json.dumps(artefact).encode(), "encoders", "planted.json")
    pointer = {"fingerprint": "planted", "path": path}
    ctx.root.write_bytes(json.dumps(pointer).encode(), "encoders", "current.json")
