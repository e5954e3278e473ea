"""Which Parquet row groups hold the rows of a pinned Delta version, so that torch can read them without Spark.

The list is bounded by the number of files, its order does not depend on Spark or on file names, and its hash
says whether a checkpoint was made from the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sie_spark.platform.config.load import digest
from sie_spark.platform.draws import Draw
from sie_spark.platform.errors import DataError, PlatformError
from sie_spark.platform.root import decoded, locate

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PURGE = "run REORG TABLE delta.`<path>` APPLY (PURGE), which rewrites the files without deletion vectors"


@dataclass(frozen=True)
class Shard:
    """One row group and how many of its rows are used."""

    path: str
    row_group: int
    rows: int


@dataclass(frozen=True)
class Manifest:
    """Every shard of a training table, and the draw that was applied to count its rows."""

    shards: tuple[Shard, ...]
    draw: Draw | None = None

    @property
    def rows(self) -> int:
        """Rows that are used."""
        return sum(shard.rows for shard in self.shards)

    @property
    def hash(self) -> str:
        """16 characters that differ when files, row groups, counts or the draw differ."""
        return digest(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "shards": [[shard.path, shard.row_group, shard.rows] for shard in self.shards],
            "draw": asdict(self.draw) if self.draw else None,
        }

    def to_json(self) -> bytes:
        """JSON that :meth:`from_json` reads."""
        return json.dumps(self.as_dict()).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Inverse of :meth:`to_json`."""
        found = json.loads(data)
        return cls(
            tuple(Shard(path, int(group), int(rows)) for path, group, rows in found["shards"]),
            Draw(**found["draw"]) if found["draw"] else None,
        )


def build_manifest(frame: DataFrame, *, draw: Draw | None = None) -> Manifest:
    """List the row groups behind a pinned Delta version.

    Parameters
    ----------
    frame:
        a Delta table at a version, filtered by whole partitions at most.
    draw:
        counts, and later reads, only this uniform sample of the rows.

    Raises
    ------
    DataError
        when no row is left.
    PlatformError
        when the files hold other rows than the table: deletion vectors, column mapping, or a filter that is
        not over partitions.
    """
    from pyspark.sql import functions as F

    # bounded by the number of files
    counted = frame.groupBy(F.col("_metadata.file_path").alias("path")).agg(F.count(F.lit(1)).alias("rows"))
    rows_of = {decoded(path): int(rows) for path, rows in counted.collect()}
    if not rows_of:
        raise DataError(
            "there is no row to train on", remedy="check the split dates and what the stages before kept"
        )
    footers = _footers(list(rows_of))
    for uri, groups in footers.items():
        held = sum(rows for _, rows, _ in groups)
        if held != rows_of[uri]:
            raise PlatformError(
                f"{uri} holds {held} rows, the table shows {rows_of[uri]} of them: deletion vectors, or a filter "
                "inside a file",
                remedy=PURGE,
            )
    if draw is None or draw.fraction >= 1:
        return Manifest(tuple(Shard(uri, group, rows) for uri, group, rows in _ordered(footers)))
    kept = _kept(frame.sparkSession, footers, draw)
    shards = tuple(Shard(uri, group, kept.get((uri, group), 0)) for uri, group, _ in _ordered(footers))
    return Manifest(tuple(shard for shard in shards if shard.rows), draw)


Group = tuple[int, int, tuple[int, int]]  # index, rows, (least, greatest) sample_id


def _footers(uris: Sequence[str]) -> dict[str, list[Group]]:
    with ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip(uris, pool.map(_footer, uris), strict=True))


def _footer(uri: str) -> list[Group]:
    filesystem, path = locate(uri)
    try:
        metadata = pq.read_metadata(path, filesystem=filesystem)
    except (OSError, ValueError) as error:
        raise PlatformError(
            f"{uri}: the Parquet footer cannot be read: {error}",
            remedy="check that this machine reaches the table's storage and that no VACUUM removed the version",
        ) from error
    names = metadata.schema.to_arrow_schema().names
    if "sample_id" not in names:
        raise PlatformError(
            f"{uri} has no column 'sample_id' (column mapping?)", remedy="write the table without it"
        )
    leaf = [metadata.schema.column(i).path for i in range(metadata.num_columns)].index("sample_id")
    groups = []
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        found = group.column(leaf).statistics
        bounds = (int(found.min), int(found.max)) if found is not None and found.has_min_max else (0, 0)
        groups.append((index, int(group.num_rows), bounds))
    return groups


def _ordered(footers: dict[str, list[Group]]) -> list[tuple[str, int, int]]:
    """By content, not by file name (a random UUID): the same data gives the same order in another root."""
    flat = [
        (uri.rsplit("/", 1)[0].rsplit("/tables/", 1)[-1], bounds, rows, uri, index)
        for uri, groups in footers.items()
        for index, rows, bounds in groups
    ]
    return [(uri, index, rows) for _, _, rows, uri, index in sorted(flat)]


def _kept(spark: SparkSession, footers: dict[str, list[Group]], draw: Draw) -> dict[tuple[str, int], int]:
    """Rows of each row group that a draw keeps; Arrow workers read the ids, bounded by row groups comes back."""
    flat = [(uri, index, rows) for uri, index, rows in _ordered(footers)]
    shards = spark.createDataFrame(flat, "path string, row_group int, rows bigint")
    tasks = shards.repartition(min(len(flat), 64), "path", "row_group")
    counts = tasks.mapInArrow(CountDrawn(draw), "path string, row_group int, rows bigint").collect()
    return {(str(path), int(group)): int(rows) for path, group, rows in counts}


@dataclass(frozen=True)
class CountDrawn:
    """A ``mapInArrow`` function: shards in, the same with the number of rows that a draw keeps."""

    draw: Draw

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Reads one column of each row group."""
        for batch in batches:
            kept = [
                drawn_rows(uri, group, self.draw)
                for uri, group in zip(batch["path"].to_pylist(), batch["row_group"].to_pylist(), strict=True)
            ]
            arrays = [batch["path"], batch["row_group"], pa.array(kept, pa.int64())]
            yield pa.RecordBatch.from_arrays(arrays, names=["path", "row_group", "rows"])


def drawn_rows(uri: str, group: int, draw: Draw) -> int:
    """How many rows of a row group lie below the draw's fraction."""
    filesystem, path = locate(uri)
    with filesystem.open_input_file(path) as source:
        ids = (
            pq.ParquetFile(source).read_row_group(group, columns=["sample_id"]).column("sample_id").to_numpy()
        )
    return int(draw.keeps(ids).sum())
