"""Settings meet the table: names, expressions and types of the features, checked before any row is read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sie_spark.features.encoder import Fitted
from sie_spark.features.identifiers import Category, IdList
from sie_spark.features.numbers import Number
from sie_spark.features.vectors import Vector
from sie_spark.features.vocabulary import Hashed
from sie_spark.platform.config import Feature
from sie_spark.platform.config.features import check_features
from sie_spark.platform.config.features import feature_error as _error
from sie_spark.platform.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# known only after the item was shown, or by the split: a model that reads one knows the answer
LATER = (
    *("label", "click", "conversion", "click_delay_s", "conversion_delay_s", "label_mature", "_click_ts"),
    *("sampling_rate", "__split", "__state", "__keep"),
)
NUMBERS = {"tinyint", "smallint", "int", "bigint", "float", "double", "boolean"}
CATEGORIES = NUMBERS | {"string", "date"}
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`[^`]*`""", re.DOTALL)
_COMMENT = re.compile(rf"(?P<kept>{_QUOTED.pattern})|--[^\n]*|/\*.*?\*/", re.DOTALL)
_CALLED = re.compile(r"`(\w+)`(?=\s*\()")  # a function's name in backticks
_QUERY = re.compile(r"\bselect\b|(?<!\w)\(\s*(?:from|table)\s", re.IGNORECASE)
_CLOCK = re.compile(
    r"\b(?:current_(?:date|time|timestamp)|localtimestamp)\b|\b(?:now|curdate|unix_timestamp)\s*\(\s*\)",
    re.IGNORECASE,
)
# texts that Spark reads as the present wherever a time is wanted: typed, cast, compared with a time
_PRESENT = re.compile(r"""['"]\s*(?:now|today|tomorrow|yesterday)\b""", re.IGNORECASE)
_PAD = "   "  # Spark trims such a text when it reads it as a time


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
            return Number(*common, transform=settings.transform, single=self.type_name == "float")
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
        naming the feature: an unknown column (with the nearest one), a type its kind cannot use, an expression
        that is no value of one row as it was shown, features that do not go together.
    """
    if not features:
        raise ConfigError("dataset.features is empty", remedy="declare at least one feature")
    check_features(features)
    return [_resolve(feature, frame, strength) for feature in features]


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
    name = feature.input_name
    expression = feature.expression or f"`{feature.column}`"
    if feature.back_off:
        expression = backed_off([feature.column.removeprefix("rate_"), *feature.back_off], strength)
    if feature.expression is None and feature.column not in frame.columns:
        near = difflib.get_close_matches(feature.column, frame.columns, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; there are: {', '.join(frame.columns)}"
        raise _error(name, f"impressions have no column '{feature.column}'{hint}", "correct dataset.features")
    type_ = _row_type(name, expression, frame)
    return Resolved(feature, name, expression, _type_name(feature, name, type_))


def _row_type(name: str, expression: str, frame: DataFrame) -> Any:
    """Spark's type of an expression that every row answers alone, by what is known when it is shown."""
    code = _COMMENT.sub(lambda found: found["kept"] or " ", expression)
    bare = _QUOTED.sub("''", _CALLED.sub(r"\1", code))
    if _QUERY.search(bare):
        raise _error(
            name, f"expression {expression!r} holds a query", "make its value a column of impressions"
        )
    if _CLOCK.search(bare) or _names_the_present(code, frame):
        raise _error(
            name, f"expression {expression!r} reads the clock, so no two runs agree", "use event_ts instead"
        )
    shown = frame.drop(*LATER)
    type_, _ = _analyse(shown, expression, alone=True)
    if type_ is not None:
        return type_
    known, reason = _analyse(frame, expression)
    if known is None:
        raise _error(name, f"expression {expression!r}: {reason}", "correct the expression")
    later = [column for column in frame.columns if column.casefold() in LATER]
    later = [column for column in later if _analyse(frame.drop(column), expression)[0] is None]
    if later:
        raise _error(
            name,
            f"expression {expression!r} reads {', '.join(later)}, which nobody knows when the item is shown",
            "use what was known before, e.g. the columns of dataset.history: hist_*, rate_*",
        )
    raise _error(
        name,
        f"expression {expression!r} is no value of one row alone: it holds a window, an aggregate, a generator"
        " or a random value",
        "compute it over one row's columns, or make it a column of impressions",
    )


def _names_the_present(code: str, frame: DataFrame) -> bool:
    """Whether a text such as 'today' means the time of the run: Spark's plan then holds that time in its place.

    In ``date 'today'``, ``datediff('today', day)`` and ``event_ts < 'now'`` it does, in ``delivery = 'today'`` not.
    """
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    # repartitioned: a small local table would be computed by the optimiser, and its plan be rows
    shown, explain = frame.repartition(1), "EXPLAIN EXTENDED SELECT * FROM {value}"
    for text in _QUOTED.finditer(code):
        if not _PRESENT.match(text[0]):
            continue
        padded = f"{_PAD}{text[0][1:-1]}{_PAD}"
        asked = f"{code[: text.start() + 1]}{padded}{code[text.end() - 1 :]}"
        try:
            value = shown.select(F.expr(asked).alias("value"))
            row = frame.sparkSession.sql(explain, value=value).first()
        except PySparkException:  # what is wrong with it is said where it is analysed
            return False
        _, optimised, plan = str(row and row[0]).partition("== Optimized Logical Plan ==")
        if optimised and padded.casefold() not in plan.casefold():
            return True
    return False


def _analyse(frame: DataFrame, expression: str, *, alone: bool = False) -> tuple[Any, str]:
    """The expression's type, or None and what Spark has against it; ``alone`` refuses more than one row's value."""
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    try:
        value = F.expr(expression)
        if alone:  # a join's condition may hold no window, aggregate, generator or random value; nothing runs
            frame = frame.join(frame.sparkSession.range(0).toDF("__none"), value.isNotNull())
        return frame.select(value.alias("value")).schema[0].dataType, ""
    except PySparkException as error:
        said = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        return None, said[0][:200]


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
