"""Encoded training rows as numpy blocks, one a feature: what selection judges, bounded in size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from sie_spark.features.encoder import Encoder
from sie_spark.features.fit import Training
from sie_spark.features.identifiers import Category, IdList
from sie_spark.features.vectors import Vector

if TYPE_CHECKING:
    import pyarrow as pa

FREQUENT = 50  # ids of a feature that get a column of their own in a linear model


@dataclass(frozen=True)
class Block:
    """One feature: ``values`` int64 [rows, width] of ids or float64 [rows, width]; id 0 is unknown or padding."""

    name: str
    values: np.ndarray

    @property
    def is_ids(self) -> bool:
        """Ids rather than numbers."""
        return bool(np.issubdtype(self.values.dtype, np.integer))

    def columns(self) -> sparse.csr_matrix:
        """Columns for a linear model [rows, k]: frequent ids as 0/1, numbers as z-scores."""
        if not self.is_ids:
            deviation = self.values.std(axis=0)
            scaled = (self.values - self.values.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
            return sparse.csr_matrix(scaled)
        ids, counts = np.unique(self.values, return_counts=True)
        chosen = ids[np.argsort(-counts, kind="stable")][:FREQUENT]
        hits = [(self.values == one).any(axis=1).astype(np.float64) for one in chosen if one or self._one]
        return sparse.csr_matrix(np.stack(hits, axis=1) if hits else np.zeros((len(self.values), 1)))

    @property
    def _one(self) -> bool:
        return self.values.shape[1] == 1  # a category, whose 0 is a value and not padding


def sample_blocks(training: Training, encoder: Encoder, rows: int) -> tuple[list[Block], np.ndarray]:
    """Blocks and labels [rows] of a sample of the training rows, the oldest first."""
    from pyspark.sql import functions as F

    keep = [F.col("impression_id"), F.unix_micros("event_ts").alias("__at"), F.col("label").alias("__label")]
    table = encoder.transform(training.sample(rows), keep=keep).toArrow()
    table = table.sort_by([("__at", "ascending"), ("impression_id", "ascending")])
    return blocks_of(table, encoder), np.asarray(table["__label"].to_numpy(), dtype=np.float64)


def blocks_of(table: pa.Table, encoder: Encoder) -> list[Block]:
    """Cut the arrays of encoded rows into features."""

    def matrix(name: str, dtype: type) -> np.ndarray:
        flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, dtype=dtype).reshape(table.num_rows, -1)

    cat, dense = matrix("cat", np.int64), matrix("dense", np.float64)
    blocks, at_cat, at_dense = [], 0, 0
    for feature in encoder.features:
        if isinstance(feature, Category):
            blocks.append(Block(feature.name, cat[:, at_cat : at_cat + 1]))
            at_cat += 1
        elif isinstance(feature, IdList):
            blocks.append(Block(feature.name, matrix(feature.name, np.int64)))
        else:
            values = dense[:, at_dense : at_dense + len(feature.outputs)]
            at_dense += len(feature.outputs)
            if isinstance(feature, Vector):
                values = np.hstack([matrix(feature.name, np.float64), values])
            blocks.append(Block(feature.name, values))
    return blocks
