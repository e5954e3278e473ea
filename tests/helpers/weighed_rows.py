"""A small training set with every kind of input, as stages ``encode`` to ``weigh`` would leave it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from helpers.encoded_samples import settings
from sie_spark.platform.context import Context
from sie_spark.platform.inputs import InputSpec
from sie_spark.weighting import weigh

SPEC = InputSpec(
    categories={"item": 50, "city": 20},
    numbers=("price", "weight"),  # one of them has the name of a column of every export
    bags={"tags": (9, 3)},
    sequences={"recent": (50, 4)},
    vectors={"image": 2},
)
ARMS = {
    "inverse": {"policy": "horvitz_thompson", "budget": 0.3},
    "emphasis": {"policy": "exp_score", "score": "loss", "budget": 0.3},
}
SCHEMA = (
    "impression_id string, position int, label float, sampling_rate float, cat array<int>, dense array<float>,"
    " tags array<int>, recent array<int>, image array<float>, key_user_id string, key_price string, split string"
)
SCORERS = ["grad_norm", "loss", "logit_grad_norm"]


def config(**sections: Any) -> dict[str, Any]:
    """Settings of four arms: all of them keep rows, one by biased weights."""
    chosen = {
        "weighting": {"budget": 0.3},
        "importance": {"scorers": SCORERS},
        "arms": {"full": None, **ARMS},
        "evaluation": {"yardstick_rows": 1000, "bootstrap": 20},
        "report": {"key": ["user_id", "price"]},
    }
    return settings(**{**chosen, **sections})


def planted(train: int, validation: int, test: int) -> pd.DataFrame:
    """Rows whose label follows from the numbers; half of the log's negatives were left out before."""
    rng, rows = np.random.default_rng(3), train + validation + test
    x = rng.normal(size=(rows, 2)).astype(np.float32)
    x[rng.random(rows) < 0.2, 1] = 0.0
    label = rng.random(rows) < 1 / (1 + np.exp(3.0 - x[:, 0] + 0.7 * x[:, 1]))
    length = rng.integers(0, 4, rows)
    return pd.DataFrame(
        {
            "impression_id": [f"r{at}" for at in range(rows)],
            "position": rng.integers(1, 9, rows).astype(np.int32),
            "label": label.astype(np.float32),
            "sampling_rate": np.where(label, 1.0, 0.5).astype(np.float32),
            "cat": [[int(a), int(b)] for a, b in zip(rng.integers(0, 50, rows), rng.integers(0, 20, rows), strict=True)],
            "dense": [[float(a), float(b)] for a, b in x],
            "tags": [[int(one) for one in rng.integers(1, 9, at)] + [0] * (3 - int(at)) for at in length],
            "recent": [[int(one) for one in rng.integers(0, 50, 4)] for _ in range(rows)],
            "image": [[float(a), -float(b)] for a, b in x],
            "key_user_id": [f"person{at % 37}" for at in range(rows)],
            "key_price": [None if at % 5 == 0 else f"{at}.5" for at in range(rows)],
            "split": ["train"] * train + ["validation"] * validation + ["test"] * test,
        }
    )  # fmt: skip


def weighed(ctx: Context, *, train: int = 1500, validation: int = 500, test: int = 300) -> None:
    """``samples``, ``scores`` without a model, and ``training_set`` by stage weigh."""
    from pyspark.sql import functions as F

    rows = (
        ctx.spark.createDataFrame(planted(train, validation, test), SCHEMA)
        .repartition(3, "impression_id")
        .withColumn("event_date", F.lit("2024-03-02").cast("date"))
        .withColumn("event_ts", F.col("event_date").cast("timestamp"))
        .withColumn("sample_id", F.xxhash64("impression_id"))
        .withColumn("group_id", F.xxhash64("key_user_id"))
        .withColumn("request_id", F.xxhash64("position"))
    )
    ctx.catalog.replace(
        rows.selectExpr("impression_id", "event_date", "1.0D AS price"),
        "impressions",
        fingerprint="planted",
        job="test",
    )
    ctx.catalog.replace(rows.drop("impression_id"), "samples", fingerprint="planted", job="test")
    artefact = {"format_version": 1, "inputs": SPEC.as_dict()}
    path = ctx.root.write_bytes(json.dumps(artefact).encode(), "encoders", "planted.json")
    pointer = {"fingerprint": "planted", "path": path}
    ctx.root.write_bytes(json.dumps(pointer).encode(), "encoders", "current.json")
    p = 1 / (1 + F.exp(3.0 - F.col("dense")[0] + 0.7 * F.col("dense")[1]))
    scores = (
        ctx.catalog.read("samples")
        .where("split IN ('train', 'validation')")
        .withColumn("p", p)
        .withColumn("score_logit_grad_norm", F.sqrt(1 + F.col("dense")[0] ** 2))
        .withColumn("score_grad_norm", F.abs(F.col("p") - F.col("label")) * F.col("score_logit_grad_norm"))
        .withColumn("score_loss", -F.log(F.when(F.col("label") > 0, F.col("p")).otherwise(1 - F.col("p"))))
        .withColumn("scorer_versions", F.lit("planted"))
    )
    ctx.catalog.replace(scores, "scores", fingerprint="planted", job="test")
    ctx.save_details("score", {"encoder": "planted"})
    weigh.run(ctx)
