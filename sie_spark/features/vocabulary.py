"""Frozen vocabularies: value -> id, small ones inside the artefact, large ones in a Parquet file beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pyarrow.fs import FileSelector

from sie_spark.features.contents import check_content, content_in_spark, content_of, state_of
from sie_spark.features.hashing import hash_id, hash_id_column
from sie_spark.platform.errors import DataError
from sie_spark.platform.root import Root, locate

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
        Parquet directory with columns ``value`` (string) and ``id`` (int), relative to ``base``, named by its
        content.
    base:
        directory of the artefact; not part of it, so that a root can move.
    """

    size: int
    values: tuple[str, ...] | None = None
    path: str | None = None
    base: str = ""

    @property
    def uri(self) -> str:
        """Where the values lie.

        Raises
        ------
        DataError
            when it is not known where the artefact lies.
        """
        if not self.base:
            raise DataError(
                f"vocabulary '{self.path}' lies beside the encoder's file, and where that lies is not known",
                remedy="open it by Encoder.load(path), or give its path: Encoder.from_dict(data, where=path)",
            )
        return f"{self.base}/{self.path}"

    @property
    def is_whole(self) -> bool:
        """Whether its values are there."""
        return self.values is not None or any(name.endswith(".parquet") for name in self._files())

    def copy(self, root: Root) -> None:
        """Bring values that lie in Parquet under a root; nothing where they lie there."""
        if self.path is None or replace(self, base=root.path("encoders")).is_whole:
            return
        filesystem, folder = locate(self.uri)
        for name in sorted(
            self._files(), key=lambda name: name == "_SUCCESS"
        ):  # which says that all are there
            with filesystem.open_input_stream(f"{folder}/{name}") as stream:
                root.write_bytes(stream.read(), "encoders", *self.path.split("/"), name)

    def _files(self) -> list[str]:
        filesystem, folder = locate(self.uri)
        found = filesystem.get_file_info(FileSelector(folder, allow_not_found=True))
        return [info.base_name for info in found if info.is_file]

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
        """Lookup table (value, id), hinted for broadcast where it is small enough.

        Raises
        ------
        ModelError
            when values in Parquet are not those that were written.
        """
        from pyspark.sql import functions as F

        if self.values is not None:
            import pyarrow as pa

            table = spark.createDataFrame(
                pa.table({"value": list(self.values), "id": pa.array(range(1, self.size), pa.int32())})
            )
        else:
            if state := state_of(self.uri):  # of no file Spark says so itself
                check_content(self.uri, content_in_spark(spark, self.uri, state), self.size - 1)
            table = spark.read.parquet(self.uri)
        table = table.select("value", "id")
        return F.broadcast(table) if self.size <= BROADCAST else table

    def id(self, value: str) -> int:
        """Id of one value, without Spark; raises as :meth:`table`."""
        return self.known.get(value, 0)

    @cached_property
    def known(self) -> dict[str, int]:
        """Value -> id; raises as :meth:`table`."""
        if self.values is not None:
            return {value: at for at, value in enumerate(self.values, start=1)}
        from pyarrow import dataset

        filesystem, name = locate(self.uri)
        try:
            found = dataset.dataset(name, filesystem=filesystem, format="parquet")
            table = found.to_table(columns=["value", "id"])
        except (OSError, ValueError) as error:  # Arrow's own are of these
            raise DataError(
                f"vocabulary {self.uri}: {type(error).__name__} while reading",
                remedy="copy the folder 'vocabulary' with the encoder's file, or run 'sie encode' to write both again",
            ) from None
        check_content(self.uri, content_of(table), self.size - 1)
        return dict(zip(table["value"].to_pylist(), table["id"].to_pylist(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        values = None if self.values is None else list(self.values)
        return {"size": self.size, "values": values, "path": self.path}


Ids = Hashed | Vocabulary


def ids_from_dict(data: dict[str, Any], base: str = "") -> Ids:
    """Inverse of ``as_dict`` of :class:`Hashed` and :class:`Vocabulary`.

    Raises
    ------
    KeyError, TypeError, ValueError
        where it is not what they wrote.
    """
    if "hash_size" in data:
        return Hashed(int(data["hash_size"]))
    values = None if data["values"] is None else tuple(data["values"])
    size, path = int(data["size"]), data.get("path")
    if (values is None) == (path is None) or (values is not None and len(values) != size - 1):
        raise ValueError(
            f"a vocabulary of {size - 1} values holds {'none' if values is None else len(values)}"
        )
    return Vocabulary(size, values, path, base if path else "")
