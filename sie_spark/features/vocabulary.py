"""Frozen vocabularies: value -> id, small ones inside the artefact, large ones in a Parquet file beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sie_spark.features.hashing import hash_id, hash_id_column
from sie_spark.platform.root import locate

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

INLINE = 20_000  # values kept in the JSON artefact; more go to Parquet
LITERAL = 48  # values looked up in a literal array instead of a join
BROADCAST = 500_000  # values up to which the lookup asks for a broadcast; beyond it Spark chooses by size


@dataclass(frozen=True)
class Hashed:
    """No vocabulary: ids are hashes in ``1 .. size - 1``."""

    size: int

    @property
    def joins(self) -> bool:
        """Never: a hash needs no table."""
        return False

    def column(self, value: Column) -> Column:
        """Id of a value that is not null (int)."""
        return hash_id_column(value, self.size)

    def id(self, value: str) -> int:
        """The same for one row."""
        return hash_id(value, self.size)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"hash_size": self.size}


@dataclass(frozen=True)
class Vocabulary:
    """Values with ids ``1 .. size - 1``, most frequent first; 0 is every other value.

    Parameters
    ----------
    size:
        number of ids, the 0 included.
    values:
        ``values[i]`` has id ``i + 1``; None where they lie in ``path``.
    path:
        Parquet directory with columns ``value`` (string) and ``id`` (int), relative to ``base``.
    base:
        directory of the artefact; not part of it, so that a root can move.
    """

    size: int
    values: tuple[str, ...] | None = None
    path: str | None = None
    base: str = ""

    @property
    def joins(self) -> bool:
        """Whether Spark looks values up by a join."""
        return self.values is None or self.size - 1 > LITERAL

    def column(self, value: Column) -> Column:
        """Id of a value (int) for a vocabulary that needs no join."""
        from pyspark.sql import functions as F

        if not self.values:
            return F.lit(0)
        # 1-based, and 0 where absent: exactly the ids
        return F.coalesce(F.array_position(F.lit(list(self.values)), value), F.lit(0)).cast("int")

    def table(self, spark: SparkSession) -> DataFrame:
        """Lookup table (value, id), hinted for broadcast where it is small enough."""
        from pyspark.sql import functions as F

        if self.values is not None:
            import pyarrow as pa

            table = spark.createDataFrame(
                pa.table({"value": list(self.values), "id": pa.array(range(1, self.size), pa.int32())})
            )
        else:
            table = spark.read.parquet(f"{self.base}/{self.path}")
        table = table.select("value", "id")
        return F.broadcast(table) if self.size <= BROADCAST else table

    def id(self, value: str) -> int:
        """Id of one value, without Spark."""
        return self._ids.get(value, 0)

    @cached_property
    def _ids(self) -> dict[str, int]:
        if self.values is not None:
            return {value: at for at, value in enumerate(self.values, start=1)}
        from pyarrow import dataset

        filesystem, name = locate(f"{self.base}/{self.path}")
        table = dataset.dataset(name, filesystem=filesystem, format="parquet").to_table(
            columns=["value", "id"]
        )
        return dict(zip(table["value"].to_pylist(), table["id"].to_pylist(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        values = None if self.values is None else list(self.values)
        return {"size": self.size, "values": values, "path": self.path}


Ids = Hashed | Vocabulary


def ids_from_dict(data: dict[str, Any], base: str = "") -> Ids:
    """Inverse of ``as_dict`` of :class:`Hashed` and :class:`Vocabulary`."""
    if "hash_size" in data:
        return Hashed(int(data["hash_size"]))
    values = None if data["values"] is None else tuple(data["values"])
    path = data.get("path")
    return Vocabulary(int(data["size"]), values, path, base if path else "")
