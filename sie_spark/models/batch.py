"""The only thing models, gradients and scorers see of the data: named tensors decoded from Arrow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from sie_spark.platform.errors import DataError
from sie_spark.platform.inputs import InputSpec


@dataclass(frozen=True)
class Batch:
    """N encoded rows.

    Parameters
    ----------
    inputs:
        keyword arguments of ``model.forward``: ``cat`` int64 [N, F], ``dense`` float32 [N, D], and one
        int64 [N, L] a bag or sequence, one float32 [N, V] a vector.
    label, offset, weight:
        float32 [N]; offset 0 and weight 1 where the table has none.
    sample_id:
        int64 [N].
    """

    inputs: dict[str, Tensor]
    label: Tensor
    offset: Tensor
    weight: Tensor
    sample_id: Tensor

    def __len__(self) -> int:
        return int(self.label.shape[0])

    def take(self, rows: Tensor | slice) -> Batch:
        """Some of the rows: an index tensor or a slice."""
        return Batch(
            {name: value[rows] for name, value in self.inputs.items()},
            self.label[rows],
            self.offset[rows],
            self.weight[rows],
            self.sample_id[rows],
        )

    def split(self, size: int) -> Iterator[Batch]:
        """Consecutive micro-batches of at most ``size`` rows."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    @staticmethod
    def concat(batches: list[Batch]) -> Batch:
        """Rows of several batches, in order."""
        first = batches[0]
        return Batch(
            {name: torch.cat([batch.inputs[name] for batch in batches]) for name in first.inputs},
            torch.cat([batch.label for batch in batches]),
            torch.cat([batch.offset for batch in batches]),
            torch.cat([batch.weight for batch in batches]),
            torch.cat([batch.sample_id for batch in batches]),
        )

    @classmethod
    def from_arrow(cls, table: pa.RecordBatch | pa.Table, spec: InputSpec) -> Batch:
        """Decode encoded rows; fixed-length arrays reach numpy without copying a value twice.

        Raises
        ------
        DataError
            when a column is missing, null, or an array has another length than the encoder promised.
        """
        if isinstance(table, pa.Table):
            table = table.combine_chunks()
        rows = table.num_rows
        inputs = {
            "cat": _matrix(table, "cat", len(spec.categories), np.dtype("int64"), rows),
            "dense": _matrix(table, "dense", len(spec.numbers), np.dtype("float32"), rows),
        }
        for name, (_, length) in {**spec.bags, **spec.sequences}.items():
            inputs[name] = _matrix(table, name, length, np.dtype("int64"), rows)
        for name, length in spec.vectors.items():
            inputs[name] = _matrix(table, name, length, np.dtype("float32"), rows)
        return cls(
            inputs,
            _scalar(table, "label", rows, None),
            _scalar(table, "offset", rows, 0.0),
            _scalar(table, "weight", rows, 1.0),
            torch.from_numpy(_column(table, "sample_id").to_numpy(zero_copy_only=False).astype("int64")),
        )


def _column(table: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    if name not in table.schema.names:
        raise DataError(
            f"encoded column '{name}' is missing",
            remedy="encode and read with the same encoder: run 'sie encode'",
        )
    column = table.column(name)
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # an empty table has no chunk
            column = pa.array([], type=column.type)
    if column.null_count:
        raise DataError(
            f"encoded column '{name}' has {column.null_count} nulls",
            remedy="run 'sie encode --set run.force=true'",
        )
    return column


def _matrix(table: pa.RecordBatch | pa.Table, name: str, width: int, dtype: np.dtype, rows: int) -> Tensor:
    if width == 0:
        return torch.zeros(rows, 0, dtype=torch.float32 if dtype.kind == "f" else torch.int64)
    column = _column(table, name)
    values = column.flatten().to_numpy(zero_copy_only=False)
    if values.size != rows * width:
        raise DataError(
            f"encoded column '{name}' has {values.size / max(rows, 1):.2f} values a row, the encoder promised {width}",
            remedy="encode and read with the same encoder: run 'sie encode'",
        )
    matrix = values.reshape(rows, width)
    return torch.from_numpy(matrix.astype(dtype) if matrix.dtype != dtype else matrix.copy())


def _scalar(table: pa.RecordBatch | pa.Table, name: str, rows: int, default: float | None) -> Tensor:
    if default is not None and name not in table.schema.names:
        return torch.full((rows,), default)
    return torch.from_numpy(_column(table, name).to_numpy(zero_copy_only=False).astype("float32"))
