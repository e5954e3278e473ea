"""Words and word n-grams, cut alike by Spark and by Python.

Both sides would lower-case and split by their own Unicode tables; the tables here are explicit instead:
one-to-one lower-casing of Latin, Greek and Cyrillic letters, and ASCII, Latin-1 and general punctuation
as separators.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column

# inside a character class of Java and of Python alike
SEPARATORS = r"[\x00-\x2F\x3A-\x40\x5B-\x60\x7B-\xA9\xAB-\xB4\xB6-\xB9\xBB-\xBF\u2000-\u206F\u3000-\u303F]+"
_SPLIT = re.compile(SEPARATORS)
_BETWEEN = "".join(chr(code) for code in range(0x3040) if _SPLIT.fullmatch(chr(code)))


def _lower_pairs() -> tuple[str, str]:
    blocks = [
        range(0x41, 0x5B),
        range(0xC0, 0xDF),
        range(0x100, 0x180),
        range(0x391, 0x3AC),
        range(0x400, 0x460),
    ]
    upper = [chr(code) for block in blocks for code in block]
    pairs = [
        (letter, letter.lower()) for letter in upper if len(letter.lower()) == 1 and letter.lower() != letter
    ]
    return "".join(pair[0] for pair in pairs), "".join(pair[1] for pair in pairs)


UPPER, LOWER = _lower_pairs()
_TABLE = str.maketrans(UPPER, LOWER)


def ngrams(text: str | None, size: int, limit: int) -> list[str]:
    """The first ``limit`` n-grams: all single words first, then pairs, then triples (up to ``size``).

    >>> ngrams("Hotel am See", 2, 10)
    ['hotel', 'am', 'see', 'hotel am', 'am see']
    """
    if text is None:
        return []
    words = [word for word in _SPLIT.split(text.translate(_TABLE)) if word]
    grams = list(words)
    for n in range(2, size + 1):
        grams += [" ".join(words[at : at + n]) for at in range(len(words) - n + 1)]
    return grams[:limit]


def ngrams_column(text: Column, size: int, limit: int) -> Column:
    """:func:`ngrams` in Spark: array<string>, never null."""
    from pyspark.sql import functions as F

    spaced = F.translate(text, UPPER + _BETWEEN, LOWER + " " * len(_BETWEEN))
    words = F.array_remove(F.split(spaced, " "), "")  # one pass and no pattern
    if size > 1:
        # a lambda over a one-element array names the words, so that they are cut once and not once a use
        words = F.get(
            F.transform(F.array(F.slice(words, 1, limit)), lambda cut: _all_grams(cut, size)), F.lit(0)
        )
    return F.coalesce(F.slice(words, 1, limit), F.array().cast("array<string>"))


def _all_grams(words: Column, size: int) -> Column:
    from pyspark.sql import functions as F

    return F.concat(words, *[_joined(words, n) for n in range(2, size + 1)])


def _joined(words: Column, n: int) -> Column:
    from pyspark.sql import functions as F

    starts = F.sequence(F.lit(1), F.size(words) - (n - 1))
    joined = F.transform(starts, lambda at: F.array_join(F.slice(words, at, n), " "))
    return F.when(F.size(words) >= n, joined).otherwise(F.array().cast("array<string>"))
