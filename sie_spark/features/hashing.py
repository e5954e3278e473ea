"""XXH64 as Spark computes it, and the text forms that both sides hash.

One row encoded without Spark must equal the row that Spark encoded bit for bit; that begins with the bytes
that are hashed. Nothing here imports Spark until a ``Column`` is asked for.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from xxhash import xxh64_intdigest

if TYPE_CHECKING:
    from pyspark.sql import Column

SEED = 42  # the seed of Spark's xxhash64
MISSING = "<missing>"  # a missing category is a value of its own, and rare or common like any other
_HUGE = 9e18  # beyond bigint there is no exact text
_FINE = 1e12  # above it a double has no six decimals left


def xxhash64(data: bytes, seed: int = SEED) -> int:
    """XXH64 of bytes as a signed 64-bit integer: ``xxhash64(text)`` of Spark SQL for ``text.encode()``.

    ``xxhash64(a, b)`` of Spark is that of ``b`` seeded by that of ``a``.
    """
    value: int = xxh64_intdigest(data, seed & (2**64 - 1))
    return value - (1 << 64) if value >> 63 else value


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


def as_float32(value: float) -> float:
    """The value that a float column holds of it: infinite beyond its range."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def value_text(value: Any, type_name: str = "") -> str | None:
    """The text of a category value, or None where it is missing.

    Whole numbers have no decimal point whatever their type; other floats are rounded to six decimals and
    written as an integer of millionths, because Java and Python print doubles differently. A time of a
    category of dates is its date in UTC, a number of a float column what that holds of it.

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
    if type_name == "float" and isinstance(value, int | float):
        value = as_float32(value)
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
