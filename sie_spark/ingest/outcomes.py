"""What a label, a click or a purchase may hold: one rule, wherever the value comes from.

0, 1, true and false, as values or as text ('1.0', 'True'). Everything else, null included, is no answer: the row goes
to quarantine, or an expression in the data set's YAML says what is meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F

OUTCOMES = ("label", "click", "conversion")
RULE = "not 0 or 1"
YES = ("yes", "y", "t", "on", "click", "clicked", "buy", "bought", "purchase", "purchased", "positive", "pos")
NO = ("no", "n", "f", "off", "none", "null", "na", "n/a", "nan", "", "-", "negative", "neg")
NUMBERS = ("tinyint", "smallint", "int", "bigint", "float", "double")
ZERO = {"boolean": "false", "string": "'0'"}  # as each type writes it
TOP = 3  # values that are named

Values = Sequence[
    tuple[str | None, int]
]  # an outcome's values as text, and how often each comes: frequent ones first


def outcome(value: Column) -> Column:
    """1 or 0 (int) where a value of any type says so, else null."""
    text = F.lower(F.trim(value.cast("string")))
    number = text.try_cast("double")
    return F.when((text == "true") | (number == 1), 1).when((text == "false") | (number == 0), 0)


def reason_of(name: str) -> str:
    """The reason that a row with another value is rejected for."""
    return f"{name}:{RULE}"


def is_outcome(text: str | None) -> bool:
    """The rule of :func:`outcome` in plain Python."""
    return text is not None and (text.strip().lower() in ("true", "false") or _number(text) in (0.0, 1.0))


def named(values: Values) -> str:
    """The values that are no outcome, in words: ``2 (1,204 times), null (17 times)``; without counts of 0."""
    wrong = [(value, count) for value, count in values if not is_outcome(value)]
    found = [_word(value) + (f" ({count:,} times)" if count else "") for value, count in wrong]
    return ", ".join([*found[:TOP], *(["..."] if len(found) > TOP else [])])


def mapped(sql: str, values: Values, kind: str, *, keep: bool) -> str:
    """SQL that makes an outcome of what ``sql`` gives, for a person to look at and copy.

    Worked example: of ``clicks`` with the values 0, 2 and null it is ``coalesce(clicks > 0, false)``; of 1, 2 and 3,
    which are all above 0, ``coalesce(clicks > 1, false)``; of 1 and null ``coalesce(clicks, 0)``.

    Parameters
    ----------
    values:
        all frequent ones, those that are outcomes among them.
    kind:
        Spark's type of ``sql`` in words.
    keep:
        whether the type must stay: a table may hold the column already.
    """
    texts = [value.strip().lower() for value, _ in values if value is not None]
    if all(map(is_outcome, texts)):
        return f"coalesce({sql}, {ZERO.get(kind, '0')})"
    numeric = kind in NUMBERS or kind.startswith("decimal")
    numbers = [_number(text) for text in texts if text not in ("true", "false")]
    if None not in numbers:
        least = (
            max(0.0, min(number for number in numbers if number is not None))
            if len(set(numbers)) > 1
            else 0.0
        )
        number = _operand(sql) if numeric else f"try_cast({sql} AS DOUBLE)"
        truth = f"coalesce({number} > {least:.15g}, false)"
    else:
        said = [word for word in texts if word in YES] or [
            word for word in texts if word not in NO and not is_outcome(word)
        ][:1]
        ones = [word for word in texts if word == "true" or _number(word) == 1]
        listed = ", ".join("'" + word.replace("'", "''") + "'" for word in dict.fromkeys([*said, *ones]))
        text = sql if kind == "string" else f"string({sql})"
        truth = f"coalesce(lower(trim({text})) IN ({listed or repr('yes')}), false)"
    return f"cast({truth} AS {kind.upper()})" if keep and (numeric or kind == "string") else truth


def mapping(setting: str, sql: str, values: Values, kind: str, *, keep: bool) -> str:
    """The line of YAML that maps an outcome, see :func:`mapped`; or what to check where it is never anything."""
    if all(value is None for value, _ in values):
        return f"check {setting}, which is null everywhere"
    return f"for example {setting}: {mapped(sql, values, kind, keep=keep)}"


def _number(text: str) -> float | None:
    whole = re.fullmatch(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*", text)
    return float(text) if whole else None


def _operand(sql: str) -> str:
    """An expression before an operator: a name or a call stands as it is."""
    return sql if re.fullmatch(r"`[^`]+`|\w+(?:\([^()]*\))?", sql) else f"({sql})"


def _word(value: str | None) -> str:
    return "null" if value is None else (value.strip() if _number(value) is not None else repr(value[:30]))
