"""XXH64 as Spark computes it, in plain Python, and the text forms that both sides hash.

One row encoded without Spark must equal the row that Spark encoded bit for bit; that begins with the bytes
that are hashed. Nothing here imports Spark until a ``Column`` is asked for.
"""

from __future__ import annotations

import math
import struct
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column

SEED = 42  # the seed of Spark's xxhash64
MISSING = "<missing>"  # a missing category is a value of its own, and rare or common like any other
_MASK = (1 << 64) - 1
_P1 = 0x9E3779B185EBCA87
_P2 = 0xC2B2AE3D27D4EB4F
_P3 = 0x165667B19E3779F9
_P4 = 0x85EBCA77C2B2AE63
_P5 = 0x27D4EB2F165667C5
_HUGE = 9e18  # beyond bigint there is no exact text
_FINE = 1e12  # above it a double has no six decimals left


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK


def _round(accumulator: int, lane: int) -> int:
    return (_rotate((accumulator + lane * _P2) & _MASK, 31) * _P1) & _MASK


def xxhash64(data: bytes, seed: int = SEED) -> int:
    """XXH64 of bytes as a signed 64-bit integer: ``xxhash64(text)`` of Spark SQL for ``text.encode()``.

    Algorithm: Collet, xxHash specification 0.1.1.
    """
    length, at = len(data), 0
    if length >= 32:
        lanes = [(seed + _P1 + _P2) & _MASK, (seed + _P2) & _MASK, seed & _MASK, (seed - _P1) & _MASK]
        while at + 32 <= length:
            words = struct.unpack_from("<4Q", data, at)
            lanes = [_round(lane, word) for lane, word in zip(lanes, words, strict=True)]
            at += 32
        value = sum(_rotate(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK
        for lane in lanes:
            value = ((value ^ _round(0, lane)) * _P1 + _P4) & _MASK
    else:
        value = (seed + _P5) & _MASK
    value = (value + length) & _MASK
    while at + 8 <= length:
        value = (_rotate(value ^ _round(0, struct.unpack_from("<Q", data, at)[0]), 27) * _P1 + _P4) & _MASK
        at += 8
    if at + 4 <= length:
        value = (
            _rotate(value ^ (struct.unpack_from("<I", data, at)[0] * _P1 & _MASK), 23) * _P2 + _P3
        ) & _MASK
        at += 4
    while at < length:
        value = (_rotate(value ^ (data[at] * _P5 & _MASK), 11) * _P1) & _MASK
        at += 1
    value = ((value ^ (value >> 33)) * _P2) & _MASK
    value = ((value ^ (value >> 29)) * _P3) & _MASK
    value ^= value >> 32
    return value - (1 << 64) if value >> 63 else value


def xxhash64_rows(texts: pa.Array, ids: np.ndarray) -> np.ndarray:
    """``xxhash64(text, id)`` of Spark SQL for many rows: the bytes of the text, then the int seeded by their hash.

    Parameters
    ----------
    texts:
        strings [n]; a null counts as the empty string.
    ids:
        integers [n], taken as Spark's int.

    Returns
    -------
    uint64 [n]; Spark shows the same bits as bigint.
    """
    binary = texts.fill_null("").cast("large_binary")
    _, places, buffer = binary.buffers()
    offsets = np.frombuffer(places, np.int64)[binary.offset :][: len(binary) + 1]
    data = np.frombuffer(buffer, np.uint8) if buffer is not None else np.zeros(0, np.uint8)
    lengths = np.diff(offsets)
    hashes = np.empty(len(binary), np.uint64)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        block = data[offsets[rows][:, None] + np.arange(length)]
        hashes[rows] = _xxhash64_block(block, np.full(len(rows), SEED, np.uint64))
    numbers = np.ascontiguousarray(ids, dtype="<i8").astype("<i4")
    return _xxhash64_block(numbers.view(np.uint8).reshape(-1, 4), hashes)


def _xxhash64_block(data: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """:func:`xxhash64` of the rows of uint8 [n, length], with a seed each: uint64 [n]."""
    primes: list[Any] = [np.uint64(prime) for prime in (_P1, _P2, _P3, _P4, _P5)]
    (p1, p2, p3, p4, p5), length, at = primes, data.shape[1], 0

    def rotate(value: Any, bits: int) -> np.ndarray:
        return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))

    def turn(accumulator: Any, lane: np.ndarray) -> np.ndarray:
        return rotate(accumulator + lane * p2, 31) * p1

    def word(at: int, width: int) -> np.ndarray:
        return np.ascontiguousarray(data[:, at : at + width]).view(f"<u{width}")[:, 0].astype(np.uint64)

    if length >= 32:
        lanes = [seeds + p1 + p2, seeds + p2, seeds, seeds - p1]
        while at + 32 <= length:
            lanes = [turn(lane, word(at + 8 * place, 8)) for place, lane in enumerate(lanes)]
            at += 32
        turned = [rotate(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)]
        value: Any = np.sum(turned, axis=0, dtype=np.uint64)
        for lane in lanes:
            value = (value ^ turn(np.uint64(0), lane)) * p1 + p4
    else:
        value = seeds + p5
    value = value + np.uint64(length)
    while at + 8 <= length:
        value = rotate(value ^ turn(np.uint64(0), word(at, 8)), 27) * p1 + p4
        at += 8
    if at + 4 <= length:
        value = rotate(value ^ (word(at, 4) * p1), 23) * p2 + p3
        at += 4
    while at < length:
        value = rotate(value ^ (word(at, 1) * p5), 11) * p1
        at += 1
    value = (value ^ (value >> np.uint64(33))) * p2
    value = (value ^ (value >> np.uint64(29))) * p3
    return value ^ (value >> np.uint64(32))


def hash_id(text: str, size: int) -> int:
    """An id in ``1 .. size - 1``; 0 stays for padding."""
    return xxhash64(text.encode("utf-8", "replace")) % (size - 1) + 1


def hash_id_column(text: Column, size: int) -> Column:
    """:func:`hash_id` in Spark (int)."""
    from pyspark.sql import functions as F

    return (F.pmod(F.xxhash64(text), F.lit(size - 1)) + 1).cast("int")


def unit_interval(*columns: Column | str) -> Column:
    """A uniform number in [0, 1) that depends on the columns only: the same in every run and layout."""
    from pyspark.sql import functions as F

    return F.shiftrightunsigned(F.xxhash64(*columns), 11) * F.lit(2.0**-53)


def plain(value: Any) -> Any:
    """A scalar of numpy or pandas as Python's own; None where it is missing (None, NaN, NA, NaT)."""
    if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
        value = (value.astype("datetime64[us]") if value.dtype.kind == "M" else value).item()
    if isinstance(value, Decimal):
        return None if value.is_nan() else value or Decimal(0)  # Spark's decimals have no -0
    if type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and math.isnan(value)):
        return None
    return value


def value_text(value: Any, type_name: str = "") -> str | None:
    """The text of a category value, or None where it is missing.

    Whole numbers have no decimal point whatever their type; other floats are rounded to six decimals and
    written as an integer of millionths, because Java and Python print doubles differently. A time of a
    category of dates is its date in UTC.

    Raises
    ------
    TypeError
        for a value that no category holds.
    """
    value = plain(value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        whole = value.is_finite() and value == value.to_integral_value()
        return str(int(value)) if whole else _float_text(float(value))
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, datetime) and type_name == "date":
        value = (value.astimezone(UTC) if value.tzinfo else value).date()
    if isinstance(value, datetime) or not isinstance(value, int | date):
        raise TypeError(f"no category holds {type(value).__name__}")
    return str(value)  # int, and dates as ISO


def _float_text(value: float) -> str | None:
    if math.isnan(value) or abs(value) >= _HUGE:
        return None
    if abs(value) >= _FINE or value == math.floor(value):
        return str(math.floor(value))
    return f"{math.floor(value * 1e6 + 0.5)}e-6"


def value_text_column(value: Column, type_name: str) -> Column:
    """:func:`value_text` in Spark, null where the value is missing.

    ``type_name`` is the Spark type (``string``, ``bigint``, ``double``, ``decimal(10,2)``, ...).
    """
    from pyspark.sql import functions as F

    if type_name == "string":
        return value
    if type_name not in ("float", "double") and not type_name.startswith("decimal"):
        return value.cast("string")
    if type_name.startswith("decimal") and type_name.endswith(",0)"):
        return value.cast("string")
    number = value.cast("double")
    whole = F.floor(number)
    text = F.when(F.isnan(number) | (F.abs(number) >= _HUGE), F.lit(None)).otherwise(
        F.when((F.abs(number) >= _FINE) | (number == whole.cast("double")), whole.cast("string")).otherwise(
            F.concat(F.floor(number * 1e6 + 0.5).cast("string"), F.lit("e-6"))
        )
    )
    if type_name.startswith("decimal"):  # whole ones are exact; a double has 53 bits
        return F.when(value % F.lit(1) == 0, F.floor(value).cast("string")).otherwise(text)
    return text
