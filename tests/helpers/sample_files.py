"""Parquet files and a manifest over them, without Spark."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from helpers.encoded_samples import planted_rows
from sie_spark.training.manifest import Manifest, Shard


def table_of(frame: pd.DataFrame, *, first_id: int = 0) -> pa.Table:
    """An encoded table with ids ``first_id ..``."""
    columns = {
        "sample_id": pa.array(range(first_id, first_id + len(frame)), pa.int64()),
        "label": pa.array(frame["label"], pa.float32()),
        "sampling_rate": pa.array(frame["sampling_rate"], pa.float32()),
        "cat": pa.array(frame["cat"].tolist(), pa.list_(pa.int32())),
        "dense": pa.array([list(map(float, x)) for x in frame["dense"]], pa.list_(pa.float32())),
    }
    for name in ("offset", "weight"):
        if name in frame:
            columns[name] = pa.array(frame[name], pa.float32())
    return pa.table(columns)


def write_files(folder: Path, frame: pd.DataFrame, sizes: list[int], *, row_group: int = 1000) -> Manifest:
    """Cut a frame into files of given sizes."""
    shards, start = [], 0
    for number, size in enumerate(sizes):
        path = folder / f"part {number}.parquet"
        pq.write_table(
            table_of(frame.iloc[start : start + size], first_id=start), path, row_group_size=row_group
        )
        uri = f"file:{path}"  # letter by letter, as a manifest holds it
        for group in range(-(-size // row_group)):
            shards.append(Shard(uri, group, min(row_group, size - group * row_group)))
        start += size
    assert start == len(frame)
    return Manifest(tuple(shards))


def small_manifest(folder: Path, rows: int = 5300, seed: int = 0) -> Manifest:
    """A few files of unequal size."""
    return write_files(
        folder, planted_rows(rows, seed=seed), [rows // 2, rows // 3, rows - rows // 2 - rows // 3]
    )
