"""The shape of an encoded row, agreed between the encoder that writes it and the model that reads it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class InputSpec:
    """Columns of an encoded row.

    Parameters
    ----------
    categories:
        name -> number of ids of each entry of ``cat`` (array<int>, ids ``0 .. size - 1`` a field, 0 = unknown).
    numbers:
        names of the entries of ``dense`` (array<float>).
    bags:
        column -> (number of ids, length): padded id arrays, 0 = padding; order carries no meaning.
    sequences:
        like bags, the newest item first; a sequence over the ids of a category names it in ``shares``.
    vectors:
        column -> length of a float array.
    shares:
        bag or sequence column -> category whose embedding table it uses.
    """

    categories: dict[str, int] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    bags: dict[str, tuple[int, int]] = field(default_factory=dict)
    sequences: dict[str, tuple[int, int]] = field(default_factory=dict)
    vectors: dict[str, int] = field(default_factory=dict)
    shares: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Input columns of an encoded row, in the order a batch holds them."""
        return ["cat", "dense", *self.bags, *self.sequences, *self.vectors]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> InputSpec:
        """Inverse of :meth:`as_dict`, also after JSON made lists of tuples."""
        return cls(
            categories={name: int(size) for name, size in data["categories"].items()},
            numbers=tuple(data["numbers"]),
            bags={name: (int(ids), int(length)) for name, (ids, length) in data.get("bags", {}).items()},
            sequences={
                name: (int(ids), int(length)) for name, (ids, length) in data.get("sequences", {}).items()
            },
            vectors={name: int(size) for name, size in data.get("vectors", {}).items()},
            shares=dict(data.get("shares", {})),
        )
