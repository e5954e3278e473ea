"""What an encoder and its large vocabularies hold, told in the 16 hex digits they are named by, and whether it is
still that.

A file changed by hand would give other ids under an encoder's unchanged fingerprint; ``sie forget`` changes one
rightly, and leaves in it, or beside it, what it made of it.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from sie_spark.features.hashing import SEED, xxhash64
from sie_spark.platform.errors import ModelError
from sie_spark.platform.failures import explain
from sie_spark.platform.root import locate, read_bytes

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ERASED = "_erased.json"  # the contents that 'sie forget' left; readers of Parquet pass over names with _
FINGERPRINT, LEFT = "fingerprint", "left_by_forget"  # of an encoder's file: its digest as written, as erased
FORGOTTEN = "\0forgotten "  # what stands in the place of an erased value begins so, and no real one does
REMEDY = "copy the folder again from where the encoder works; or run 'sie encode --set run.force=true', then 'sie train'"


@dataclass(frozen=True)
class Content:
    """``name``: bit_xor of xxhash64(value, id) over the rows; ``forgotten``: rows whose value was erased."""

    rows: int
    name: str
    forgotten: int


def content_of(values: pa.Table) -> Content:
    """The content of a table with columns ``value`` and ``id``."""
    texts, name = values["value"].cast(pa.string()), 0
    for text, at in zip(texts.to_pylist(), values["id"].to_pylist(), strict=True):
        seed = SEED if text is None else xxhash64(text.encode())
        name ^= xxhash64(struct.pack("<I", at & 0xFFFFFFFF), seed)
    forgotten = pc.sum(pc.starts_with(texts, FORGOTTEN)).as_py() or 0
    return Content(values.num_rows, _hex(name), forgotten)


@lru_cache(maxsize=64)
def content_in_spark(spark: SparkSession, uri: str, state: tuple[tuple[str, int, int], ...]) -> Content:
    """The same, counted by Spark; once for a folder whose files are in the ``state`` of :func:`state_of`."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    hashed = F.bit_xor(F.xxhash64("value", F.col("id").cast("int")))
    forgotten = F.count_if(F.col("value").startswith(FORGOTTEN))
    try:
        row = spark.read.parquet(uri).agg(F.count("*"), hashed, forgotten).first()
    except (PySparkException, Py4JError) as error:  # Hadoop's checksum, too, tells of a change
        raise ModelError(f"vocabulary {explain(error, uri)}", remedy=REMEDY) from None
    assert row is not None
    return Content(int(row[0]), _hex(row[1] or 0), int(row[2]))


def is_there(spark: SparkSession, uri: str, content: Content) -> bool:
    """Whether a folder holds a content, nothing changed or forgotten."""
    try:
        return bool(state_of(uri)) and content_in_spark(spark, uri, state_of(uri)) == content
    except ModelError:
        return False


def state_of(uri: str) -> tuple[tuple[str, int, int], ...]:
    """Name, bytes and time of every file right under a folder; none where it is not there."""
    filesystem, folder = locate(uri)
    found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return tuple(
        sorted((info.base_name, info.size or 0, info.mtime_ns or 0) for info in found if info.is_file)
    )


def check_content(uri: str, found: Content, rows: int) -> None:
    """Raise :class:`ModelError` where a vocabulary is not the one of ``rows`` values that its folder is named by."""
    left = contents_left(uri)
    unsaid = left is None and found.forgotten > 0  # an earlier version forgot, and did not say what it left
    if found.rows == rows and (unsaid or found.name in (uri.rpartition("/")[2], *(left or []))):
        return
    raise ModelError(
        f"vocabulary {uri}: its values are not those that were written ({found.rows:,} values, {rows:,} expected;"
        f" their content is {found.name}): ids would be other values' ids",
        remedy=REMEDY,
    )


def contents_left(uri: str) -> list[str] | None:
    """The contents that ``sie forget`` left in a vocabulary's folder, the oldest first; None where it said none."""
    if not any(name == ERASED for name, *_ in state_of(uri)):
        return None
    left: list[str] = json.loads(read_bytes(f"{uri}/{ERASED}"))
    return left


def digest_of(artefact: dict[str, Any]) -> str:
    """The fingerprint of what an encoder's file holds."""
    from sie_spark.platform.config.load import digest

    return digest({name: value for name, value in artefact.items() if name not in (FINGERPRINT, LEFT)})


def is_as_written(artefact: dict[str, Any]) -> bool:
    """Whether a file holds what its fingerprint says, or what ``sie forget`` left; true where it says nothing."""
    said = [artefact[name] for name in (FINGERPRINT, LEFT) if name in artefact]
    return not said or digest_of(artefact) in said or (LEFT not in artefact and _forgot(artefact))


def _forgot(artefact: dict[str, Any]) -> bool:
    """Whether values were erased by an earlier version, which did not say what it left."""
    values = (feature.get("ids", {}).get("values") or () for feature in artefact["features"])
    return any(str(value).startswith(FORGOTTEN) for part in values for value in part)


def _hex(hashed: int) -> str:
    return f"{hashed & (2**64 - 1):016x}"
