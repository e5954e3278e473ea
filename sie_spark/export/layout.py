"""Where each feature stands in the exported rows: its Parquet column, and its indices in libsvm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sie_spark.platform.config.names import key_column
from sie_spark.platform.inputs import InputSpec

MEANING = {
    "sample_id": "the row's id, as in the tables of the run",
    "group_id": "a hash of dataset.group: rows of one user, session or list",
    "request_id": "a hash of the shown list, for learners that rank within one",
    "split": "train, validation or test: the part of the log that the row is from",
    "event_date": "the row's date",
    "label": "1 for a click (or conversion), else 0",
    "weight": "so many rows of the log the row stands for; take it alone, without offset",
    "offset": "log-odds to add in the fit and to leave out when predicting (init_score, base_margin); take it with"
    " offset_weight, never with weight",
    "offset_weight": "the weight that goes with offset",
}
CARRIED = ("sample_id", "group_id", "request_id", "split", "event_date", "label")  # as the tables have them
Kind = Literal["category", "number", "bag", "sequence", "vector"]


@dataclass(frozen=True)
class Place:
    """One feature of the encoder.

    Parameters
    ----------
    name, kind:
        as in the encoder.
    column:
        in Parquet: the name, or ``feature_<name>`` where another column has it.
    at:
        its place in ``cat`` or ``dense``; of no meaning for the others, which are columns of their own.
    first, last:
        its libsvm indices, counted from 1: id ``i`` has ``first + i``, entry ``j`` of a vector ``first + j``.
    """

    name: str
    kind: Kind
    column: str
    at: int
    first: int
    last: int

    @property
    def has_ids(self) -> bool:
        """Whether its values are ids and no amounts."""
        return self.kind in ("category", "bag", "sequence")

    def describe(self) -> dict[str, Any]:
        """Plain data for export.json."""
        found: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "column": self.column,
            "libsvm": [self.first, self.last],
        }
        return {**found, "ids": self.last - self.first + 1} if self.has_ids else found


@dataclass(frozen=True)
class Layout:
    """All features in the order of the encoder's inputs, and the columns that ride along.

    Parameters
    ----------
    keys:
        column of ``training_set`` -> column in Parquet.
    carried:
        those of CARRIED that the tables have.
    """

    places: tuple[Place, ...]
    keys: dict[str, str]
    carried: tuple[str, ...] = CARRIED

    @classmethod
    def of(cls, spec: InputSpec, keys: Sequence[str], columns: Sequence[str] = CARRIED) -> Layout:
        """Lay out the inputs of an encoder, for tables of these ``columns``.

        >>> spec = InputSpec(categories={"device": 3}, numbers=("price",))
        >>> [(one.name, one.first, one.last) for one in Layout.of(spec, ["price"]).places]
        [('device', 1, 3), ('price', 4, 4)]
        >>> Layout.of(spec, ["price", "user_id"]).keys
        {'key_price': 'key_price', 'key_user_id': 'user_id'}
        """
        taken, places, first = set(MEANING), list[Place](), 1
        for name, kind, at, width in _inputs(spec):
            column = name if name.casefold() not in taken else f"feature_{name}"
            taken.add(column.casefold())
            places.append(Place(name, kind, column, at, first, first + width - 1))
            first += width
        own = {key_column(name): name if name.casefold() not in taken else key_column(name) for name in keys}
        return cls(tuple(places), own, tuple(name for name in CARRIED if name in columns))

    def describe(self) -> dict[str, Any]:
        """Plain data for export.json."""
        keys = dict.fromkeys(self.keys.values(), "rides along as text: report.key")
        told = {name: text for name, text in MEANING.items() if name not in CARRIED or name in self.carried}
        return {"columns": {**told, **keys}, "features": [place.describe() for place in self.places]}


def _inputs(spec: InputSpec) -> Iterator[tuple[str, Kind, int, int]]:
    """Name, kind, place in its array and number of libsvm indices."""
    for at, (name, size) in enumerate(spec.categories.items()):
        yield name, "category", at, size
    for at, name in enumerate(spec.numbers):
        yield name, "number", at, 1
    for name, (ids, _) in spec.bags.items():
        yield name, "bag", 0, ids
    for name, (ids, _) in spec.sequences.items():
        yield name, "sequence", 0, ids
    for name, length in spec.vectors.items():
        yield name, "vector", 0, length
