"""Features that become ids: single categories, and bags, texts and sequences of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sie_spark.features.hashing import MISSING, plain, value_text, value_text_column
from sie_spark.features.text import ngrams, ngrams_column
from sie_spark.features.vocabulary import Ids

if TYPE_CHECKING:
    from pyspark.sql import Column

UNROLLED = 16  # longest list whose ids are looked up place by place


@dataclass(frozen=True)
class Category:
    """A fitted category: one entry of ``cat``. A missing value counts as the value ``<missing>``."""

    name: str
    expression: str
    type_name: str
    ids: Ids
    kind: str = "category"

    def source(self) -> Column:
        """The value's text, never null."""
        from pyspark.sql import functions as F

        return F.coalesce(value_text_column(F.expr(self.expression), self.type_name), F.lit(MISSING))

    def row(self, value: Any) -> int:
        """Id of one row."""
        text = value_text(value, self.type_name)
        return self.ids.id(MISSING if text is None else text)


@dataclass(frozen=True)
class IdList:
    """A fitted bag, text or sequence: an array<int> of ``length`` ids, padded with 0 on the right.

    Missing elements are left out. A sequence keeps its first ``length`` elements, the newest first.
    """

    name: str
    expression: str
    type_name: str  # of an element
    ids: Ids
    length: int
    kind: str
    ngrams: int = 1
    shares: str | None = None

    def source(self) -> Column:
        """The elements' texts: array<string>, never null, at most ``length`` long."""
        from pyspark.sql import functions as F

        value = F.expr(self.expression)
        if self.kind == "text":
            return ngrams_column(value, self.ngrams, self.length)
        if self.type_name != "string":
            value = F.transform(value, lambda element: value_text_column(element, self.type_name))
        empty = F.array().cast("array<string>")
        return F.coalesce(F.slice(F.array_compact(value), 1, self.length), empty)

    def column(self, texts: Column) -> Column:
        """array<int> of :attr:`length` ids, where ids need no join."""
        from pyspark.sql import functions as F

        if self.length <= UNROLLED:  # element by element is compiled; a lambda would be interpreted
            places = [F.get(texts, F.lit(at)) for at in range(self.length)]
            return F.array(
                *[F.when(place.isNotNull(), self.ids.column(place)).otherwise(0) for place in places]
            )
        found = F.transform(texts, self.ids.column)
        return F.concat(found, F.array_repeat(F.lit(0), F.lit(self.length) - F.size(texts)))

    def row(self, value: Any) -> list[int]:
        """Padded ids of one row."""
        found = [self.ids.id(text) for text in self._texts(value)]
        return found + [0] * (self.length - len(found))

    def _texts(self, value: Any) -> list[str]:
        value = plain(value)
        if value is None:
            return []
        if self.kind == "text":
            if not isinstance(value, str):
                raise TypeError("no text")
            return ngrams(value, self.ngrams, self.length)
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise TypeError("no list")
        texts = (value_text(element, self.type_name) for element in value)
        return [text for text in texts if text is not None][: self.length]
