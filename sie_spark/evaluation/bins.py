"""Every arm's bins of the logit: laid on a sample of the predictions, then added to all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from sie_spark.metrics.bins import Edges, bins_of, lay
from sie_spark.platform.draws import uniform_column

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SAMPLE = 200_000  # rows of an arm from which its bins are laid
SEED = 0


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
