"""Settings meet the table: names, expressions and types of the features, checked before any row is read."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sie_spark.features.encoder import Fitted
from sie_spark.features.identifiers import Category, IdList
from sie_spark.features.numbers import Number
from sie_spark.features.vectors import Vector
from sie_spark.features.vocabulary import Hashed
from sie_spark.platform.config import Feature
from sie_spark.platform.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

RESERVED = {
    *("sample_id", "split", "event_date", "event_ts", "group_id", "position", "label", "sampling_rate"),
    *("cat", "dense", "p", "pi", "offset", "weight", "arm", "seed", "policy", "policy_version"),
}
NUMBERS = {"tinyint", "smallint", "int", "bigint", "float", "double", "boolean"}
CATEGORIES = NUMBERS | {"string", "date"}


@dataclass(frozen=True)
class Resolved:
    """A feature whose column exists; ``type_name`` is its Spark type, an array's element type for lists."""

    settings: Feature
    name: str
    expression: str
    type_name: str

    def fitted(self) -> Fitted:
        """The fitted feature before anything is learnt: what reads the raw values."""
        settings, common = self.settings, (self.name, self.expression)
        if settings.kind == "number":
            return Number(*common, transform=settings.transform)
        if settings.kind == "vector":
            assert settings.size is not None
            return Vector(*common, size=settings.size)
        if settings.kind == "category":
            return Category(*common, self.type_name, Hashed(2))
        return IdList(*common, self.type_name, Hashed(2), settings.length, settings.kind, settings.ngrams)


def resolve(features: Sequence[Feature], frame: DataFrame, *, strength: float = 20.0) -> list[Resolved]:
    """Check the features against the columns of ``frame``.

    ``strength`` is that of ``history.rates``, for features that back off.

    Raises
    ------
    ConfigError
        naming the feature: an unknown column (with the nearest one), a type its kind cannot use, a name
        used twice or reserved, a missing size, a share with something that is no category.
    """
    if not features:
        raise ConfigError("dataset.features is empty", remedy="declare at least one feature")
    resolved = [_resolve(feature, frame, strength) for feature in features]
    names = [feature.name for feature in resolved]
    for feature in resolved:
        if names.count(feature.name) > 1:
            raise _error(feature.name, "this name is used twice", "give one of them another 'name'")
        becomes_column = feature.settings.kind not in ("category", "number")
        if (becomes_column and feature.name in RESERVED) or not feature.name.isidentifier():
            raise _error(feature.name, "this name cannot be a column of samples", "give it another 'name'")
        _check_share(feature, resolved)
    return resolved


def backed_off(columns: Sequence[str], strength: float) -> str:
    """SQL for a click rate that leans on coarser groups where a value has few rows of its own.

    Credibility weights (Buehlmann 1967): ``n / (n + strength)`` of the value's own rate, the rest from the
    next column, all as of the day before the row, so that no row's own label is in it.

    >>> backed_off(["item", "brand"], 20.0)
    '(count_item * coalesce(rate_item, rate_brand) + 20.0D * rate_brand) / (count_item + 20.0D)'
    """
    name, *rest = columns
    if not rest:
        return f"rate_{name}"
    inner = backed_off(rest, strength)
    own = f"count_{name} * coalesce(rate_{name}, {inner})"
    return f"({own} + {strength}D * {inner}) / (count_{name} + {strength}D)"


def _resolve(feature: Feature, frame: DataFrame, strength: float) -> Resolved:
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    name = feature.name or feature.column
    expression = feature.expression or f"`{feature.column}`"
    if feature.back_off:
        if feature.kind != "number" or feature.expression or not feature.column.startswith("rate_"):
            raise _error(name, "only a number over rate_<column> can back off", "see history.rates")
        expression = backed_off([feature.column.removeprefix("rate_"), *feature.back_off], strength)
    if feature.expression is None and feature.column not in frame.columns:
        near = difflib.get_close_matches(feature.column, frame.columns, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; there are: {', '.join(frame.columns)}"
        raise _error(name, f"impressions have no column '{feature.column}'{hint}", "correct dataset.features")
    try:
        type_: Any = frame.select(F.expr(expression).alias("value")).schema[0].dataType
    except PySparkException as error:
        reason = str(error).splitlines()[0][:200]
        raise _error(name, f"expression {expression!r}: {reason}", "correct the expression") from None
    return Resolved(feature, name, expression, _type_name(feature, name, type_))


def _type_name(feature: Feature, name: str, type_: Any) -> str:
    text: str = type_.simpleString()
    if feature.kind in ("bag", "sequence", "vector"):
        if type_.typeName() != "array":
            raise _error(
                name,
                f"a {feature.kind} needs an array, not {text}",
                "use expression, e.g. split(column, '[|]')",
            )
        text = type_.elementType.simpleString()
    if feature.kind == "vector" and feature.size is None:
        raise _error(name, "a vector needs its size", "set size to the length of the arrays")
    kind_allows = {
        "number": NUMBERS,
        "vector": NUMBERS - {"boolean"},
        "text": {"string"},
    }.get(feature.kind, CATEGORIES)
    decimal = text.startswith("decimal") and feature.kind != "text"
    if text not in kind_allows and not decimal:
        raise _error(
            name, f"a {feature.kind} cannot be made of {text}", "set expression to a cast of the column"
        )
    return text


def _check_share(feature: Resolved, others: Sequence[Resolved]) -> None:
    shares = feature.settings.shares
    if shares is None:
        return
    if feature.settings.kind not in ("bag", "sequence"):
        raise _error(feature.name, f"a {feature.settings.kind} cannot share ids", "leave out shares")
    if not any(other.name == shares and other.settings.kind == "category" for other in others):
        raise _error(
            feature.name, f"shares '{shares}', which is no category", "name a feature of kind category"
        )


def _error(name: str, message: str, remedy: str) -> ConfigError:
    return ConfigError(f"dataset.features '{name}': {message}", remedy=remedy)
