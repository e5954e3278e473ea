"""Small impressions tables for the tests of features, and the settings that read them."""

import datetime as dt
import random
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sie_spark.features.hashing import xxhash64

START = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("impression_id", "user_id", "item_id", "title", "group_key")],
        ("event_ts", pa.timestamp("us", "UTC")),
        ("event_date", pa.date32()),
        *[(name, pa.int32()) for name in ("position", "click", "conversion")],
        *[(name, pa.float64()) for name in ("price", "sampling_rate")],
        *[(name, pa.list_(pa.string())) for name in ("tags", "recent_items")],
        ("image", pa.list_(pa.float32())),
        ("label", pa.float32()),
        ("label_mature", pa.bool_()),
    ]
)
FEATURES: list[dict[str, Any]] = [
    {"column": "item_id", "kind": "category", "min_count": 2},
    {"column": "user_id", "kind": "category", "hash_size": 64},
    {"column": "position", "name": "place", "kind": "category", "min_count": 1},
    {"column": "price", "kind": "number", "transform": "log"},
    {"column": "price", "name": "price_rank", "kind": "number", "transform": "quantile", "scale": "none"},
    {"column": "position", "kind": "number"},
    {"column": "tags", "kind": "bag", "length": 3, "min_count": 1},
    {"column": "title", "kind": "text", "hash_size": 97, "ngrams": 2, "length": 6},
    {"column": "recent_items", "kind": "sequence", "shares": "item_id", "length": 4},
    {"column": "image", "kind": "vector", "size": 6, "components": 3},
]


def rows(count: int = 400, *, seed: int = 5, days: int = 4) -> list[dict[str, Any]]:
    """Impressions spread evenly over the days, with missing values of every kind."""
    draw = random.Random(seed)
    made = []
    for at in range(count):
        time = START + dt.timedelta(seconds=at * days * 86400 / count)
        item = f"item{min(draw.randrange(1, 60), draw.randrange(1, 60))}"
        click = int(draw.random() < 0.2)
        made.append(
            {
                "impression_id": f"i{at}",
                "event_ts": time,
                "event_date": time.date(),
                "user_id": f"user{draw.randrange(30)}",
                "item_id": None if draw.random() < 0.05 else item,
                "position": at % 10 + 1,
                "price": draw.choice(
                    [None, float("nan"), float("inf"), *[draw.lognormvariate(3, 1) for _ in range(20)]]
                ),
                "title": draw.choice(
                    [None, "", "Hotel am See", "ÉTÉ à Paris - Grand Hôtel", "ПРИВЕТ мир, Ελλάδα!"]
                ),
                "tags": draw.choice([None, [], ["pool"], ["pool", None, "spa", "bar", "wifi"]]),
                "recent_items": [f"item{draw.randrange(1, 80)}" for _ in range(draw.randrange(7))],
                "image": draw.choice(
                    [None, [1.0, float("nan"), 0, 0, 0, 0], *[[draw.gauss(0, 1 + k) for k in range(6)]] * 9]
                ),
                "click": click,
                "label": float(click),
                "group_key": f"user{at % 37}",
                "sampling_rate": 1.0,
                "conversion": None,
                "label_mature": True,
            }
        )
    return made


def settings(**dataset: Any) -> dict[str, Any]:
    """A configuration around FEATURES; without a validation part unless ``split`` asks for one."""
    split = {"validation_fraction": 0, **dataset.pop("split", {})}
    return {
        "dataset": {
            "name": "small",
            "columns": {"event_ts": "ts", "event_type": "type"},
            "features": FEATURES,
            "split": split,
            **dataset,
        }
    }


def frame(spark: Any, data: list[dict[str, Any]]) -> Any:
    """The rows as a DataFrame."""
    return spark.createDataFrame(pa.Table.from_pylist(data, schema=SCHEMA))


def vocabulary(base: Path, values: list[str]) -> Path:
    """The folder of a vocabulary with the ids 1, 2, ... in Parquet, named as an encoder's fit names it."""
    name = 0
    for at, value in enumerate(values, start=1):
        seed = xxhash64(value.encode()) & (2**64 - 1)
        name ^= xxhash64(struct.pack("<i", at), seed) & (2**64 - 1)
    folder = base / "vocabulary" / f"{name:016x}"
    folder.mkdir(parents=True)
    ids = pa.array(range(1, len(values) + 1), pa.int32())
    pq.write_table(pa.table({"value": values, "id": ids, "n": [7] * len(values)}), folder / "part-0.parquet")
    return folder


def store(ctx: Any, data: list[dict[str, Any]]) -> None:
    """Write the rows as the table ``impressions``."""
    ctx.catalog.replace(frame(ctx.spark, data), "impressions", fingerprint="test", job="impressions")
