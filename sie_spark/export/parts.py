"""A worker writes the lines of its partition and their weights, two files in one pass: neither can lose its order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from sie_spark.platform.root import locate, split

WRITTEN = "part int, rows bigint"


def file_of(part: int) -> str:
    """Name of the lines of a partition."""
    return f"part-{part:05d}.libsvm"


@dataclass(frozen=True)
class WriteParts:
    """A ``mapInArrow`` function: (line, weight) in, one (part, rows) out a partition that has rows.

    A partition has the same rows in the same order whenever it is computed, so a task that runs twice writes the
    same files twice, each under its name when it is whole.
    """

    lines: str
    weights: str

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Nothing, and no file, for an empty partition."""
        from pyspark import TaskContext

        task = TaskContext.get()
        assert task is not None  # in a worker
        part, rows = task.partitionId(), 0
        with ExitStack() as stack:
            streams: list[Any] = []
            for batch in batches:
                if not batch.num_rows:
                    continue
                if not streams:
                    names = (f"{self.lines}/{file_of(part)}", f"{self.weights}/part-{part:05d}.weight")
                    streams = [stack.enter_context(_whole(name, task.taskAttemptId())) for name in names]
                for stream, column in zip(streams, ("line", "weight"), strict=True):
                    stream.write(("\n".join(batch.column(column).to_pylist()) + "\n").encode())
                rows += batch.num_rows
        if rows:
            found = [pa.array([part], pa.int32()), pa.array([rows], pa.int64())]
            yield pa.RecordBatch.from_arrays(found, names=["part", "rows"])


@contextmanager
def _whole(target: str, attempt: int) -> Iterator[Any]:
    """A stream whose file is there when it is whole (local: rename; object stores publish on close)."""
    filesystem, name = locate(target)
    if split(target)[0] not in ("", "file"):
        with filesystem.open_output_stream(name) as stream:
            yield stream
        return
    file = Path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{attempt}.part")
    try:
        with partial.open("wb") as stream:
            yield stream
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
