"""Bins of the logit, laid by its quantiles: what is collected has a fixed size, whatever the logits are.

A ranking metric needs the order of the logits only. Bins of about equal weight keep it: however far a logit
lies from the others, it takes one place among them. A value that many rows share has a bin of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sie_spark.training.draws import uniform_column

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

FINE = 65_536  # bins of an arm at most
SAMPLE = 200_000  # rows of an arm from which its bins are laid
SEED = 0

Edges = NDArray[np.float64]


def lay(logits: NDArray[np.float64], weights: NDArray[np.float64], *, most: int = FINE) -> Edges:
    """Inner edges of at most ``most`` bins of about equal weight, ascending; bin b is (edges[b-1], edges[b]].

    A value that holds a whole bin's weight is alone in its bin. With at most ``most / 2`` distinct logits every
    one of them is.

    Parameters
    ----------
    logits, weights:
        float64 [N], N >= 1; weights are positive.

    Examples
    --------
    >>> bins_of(np.array([0.0, 0.5, 1e9]), lay(np.array([0.0, 0.5, 1e9]), np.ones(3)))
    array([1, 3, 5])
    """
    values, place = np.unique(logits, return_inverse=True)
    half = most // 2
    if len(values) <= half:
        cuts = alone = values
    else:
        mass = np.cumsum(np.bincount(place, weights))
        levels = mass[-1] * np.arange(1, half) / half
        cuts, times = np.unique(values[np.searchsorted(mass, levels)], return_counts=True)
        alone = cuts[times > 1]
    return np.unique(np.concatenate([np.nextafter(alone, -np.inf), cuts]))


def bins_of(logits: NDArray[np.float64], edges: Edges) -> NDArray[np.int64]:
    """Bin of each logit, int64 [N], in [0, len(edges)]."""
    return np.searchsorted(edges, logits, side="left")


def lay_bins(predictions: DataFrame, *, rows: int) -> dict[str, Edges]:
    """Edges by arm, from a sample by hash of at most about SAMPLE of an arm's ``rows``, weighted by 1 / rate."""
    from pyspark.sql import functions as F

    if rows > SAMPLE:
        drawn = uniform_column(F.col("sample_id"), seed=SEED, purpose="bins")
        predictions = predictions.where(drawn < SAMPLE / rows)
    table = predictions.select("arm", "logit", F.col("sampling_rate").cast("double")).toArrow()
    arms = np.asarray(table["arm"].to_pylist())
    logits, weights = table["logit"].to_numpy(), 1.0 / table["sampling_rate"].to_numpy()
    return {str(arm): lay(logits[arms == arm], weights[arms == arm]) for arm in np.unique(arms)}


@dataclass(frozen=True)
class AddBins:
    """A ``mapInArrow`` function: appends ``bin`` (int) to rows that have ``arm`` and ``logit``.

    Spark has no expression that searches a sorted array.
    """

    edges: Mapping[str, Edges]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Nothing for an empty partition."""
        for batch in batches:
            arms = np.asarray(batch.column("arm").to_pylist())
            logits = batch.column("logit").to_numpy(zero_copy_only=False)
            found = np.zeros(batch.num_rows, np.int32)
            for arm in np.unique(arms):
                found[arms == arm] = bins_of(logits[arms == arm], self.edges[str(arm)])
            yield pa.RecordBatch.from_arrays(
                [*batch.columns, pa.array(found)], names=[*batch.schema.names, "bin"]
            )


def add_bins(predictions: DataFrame, edges: Mapping[str, Edges]) -> DataFrame:
    """Adds ``bin`` (int) and ``value`` = 1 / sampling_rate, how many rows of the whole log a row stands for."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import IntegerType, StructField, StructType

    # what Arrow hands back is nullable, and Spark compares that too
    fields = [StructField(field.name, field.dataType) for field in predictions.schema.fields]
    binned = predictions.mapInArrow(AddBins(edges), StructType([*fields, StructField("bin", IntegerType())]))
    return binned.withColumn("value", F.lit(1.0) / F.col("sampling_rate").cast("double"))
