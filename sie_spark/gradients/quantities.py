"""What can be asked of the per-sample gradients; any number of questions is answered from one shared pass.

A quantity says which parameters it needs, so that a last-layer question stops the backward pass at the last
layer, and measures them from their factored forms. What it measures is found under its own key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from sie_spark.gradients.algebra import Squares, squared_norm
from sie_spark.gradients.directions import Directions
from sie_spark.gradients.errors import GradientError
from sie_spark.gradients.forms import Form
from sie_spark.gradients.projection import project, projected_size

__all__ = [
    "Dots",
    "Gradients",
    "LastLayer",
    "Measured",
    "Norms",
    "Projections",
    "Quantity",
    "Trace",
    "by_key",
    "merge",
]

Groups = Callable[[str], str] | Mapping[str, Sequence[str]]
Shapes = Mapping[str, torch.Size]


class Measured(dict[str, Tensor]):
    """Per-sample results by key of the quantity that asked for them.

    Each is [N] or [N, k], in the accumulation dtype (float32, or float64 for float64 models), detached.

    Raises
    ------
    GradientError
        ``measured[key]`` of a key that was not asked for.
    """

    def __missing__(self, key: str) -> Tensor:
        raise GradientError(
            f"nothing was measured under the key {key!r}",
            remedy=f"hand its quantity to the engine in the same call; measured were: {', '.join(self) or 'none'}",
        )


def merge(parts: Sequence[Measured]) -> Measured:
    """The results of consecutive blocks of samples, as of one batch."""
    if len(parts) == 1:
        return parts[0]
    return Measured({key: torch.cat([part[key] for part in parts]) for key in parts[0]})


@dataclass(frozen=True)
class Trace:
    """What the forward pass used.

    Attributes
    ----------
    shapes:
        of the watched parameters, by name.
    layers:
        names of each layer's parameters, layers in the order of their last call.
    """

    shapes: Shapes
    layers: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Gradients:
    """The per-sample gradients of one scalar loss, factored.

    Attributes
    ----------
    trace:
        what the forward pass used.
    forms:
        factored gradients by parameter; a parameter of zero gradient is not among them.
    squares:
        squared row norms that are computed once.
    zeros:
        [N], the dtype and device of every result.
    summed:
        False for one task of several, True for the loss that sums them, or the only one.
    """

    trace: Trace
    forms: Mapping[str, Sequence[Form]]
    squares: Squares
    zeros: Tensor
    summed: bool = True
    _norms: dict[str, Tensor] = field(default_factory=dict)

    def squared_norm(self, name: str) -> Tensor:
        """``||gradient of one parameter||^2``, [N]; computed once, so not to be changed in place."""
        if name not in self.forms:
            return self.zeros
        if name not in self._norms:
            self._norms[name] = squared_norm(self.forms[name], self.squares)
        return self._norms[name]


class Quantity(Protocol):
    """Something measured of the per-sample gradients.

    Quantities of one call that have the same key and are equal (``==``) are measured once.
    """

    @property
    def key(self) -> str:
        """Where the result is found: ``result[key]``."""
        ...

    def needs(self, trace: Trace) -> frozenset[str]:
        """Names of the parameters whose gradients are read."""
        ...

    def measure(self, gradients: Gradients) -> Tensor | None:
        """[N] or [N, k]; None from one that only adds to sums of its own (``KFAC``).

        It is called for one block of samples after the other, and for every task.
        """
        ...


def by_key(quantities: Iterable[Quantity]) -> dict[str, Quantity]:
    """Each quantity once.

    Raises
    ------
    GradientError
        when two different quantities have one key.
    """
    found: dict[str, Quantity] = {}
    for quantity in quantities:
        known = found.setdefault(quantity.key, quantity)
        if known is not quantity and known != quantity:
            kinds = " and ".join(dict.fromkeys(type(each).__name__ for each in (known, quantity)))
            raise GradientError(
                f"two different quantities ({kinds}) have the key {quantity.key!r}, where one result would "
                "overwrite the other",
                remedy=f"give each its own: {type(quantity).__name__}(..., key='...')",
            )
    return found


class Norms:
    """Squared gradient norms, over all parameters or by group (GraNd, Paul et al. 2021; Goodfellow 2015).

    Measures [N], or [N, groups] in the order of :meth:`names`.

    Parameters
    ----------
    groups:
        None for one norm over all watched parameters; a function from parameter name to group
        (``lambda name: name`` for each alone); or group -> prefixes of parameter names
        (``{"tables": ["embedding"]}``), where parameters that match nothing are left out.
    key:
        default: ``squared_norm``, or ``group_squared_norms`` where there are groups.
    """

    def __init__(self, groups: Groups | None = None, *, key: str = "") -> None:
        self.key = key or ("squared_norm" if groups is None else "group_squared_norms")
        self.groups = groups

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Norms)
            and self.key == other.key
            and _ordered(self.groups) == _ordered(other.groups)
        )

    def __hash__(self) -> int:
        return hash((type(self), self.key))

    def names(self, shapes: Iterable[str]) -> tuple[str, ...]:
        """Groups in the order of the columns, for a model with these parameters (``engine.shapes``).

        Raises
        ------
        GradientError
            for a prefix that no parameter has.
        """
        if self.groups is None:
            return ()
        parameters = list(shapes)
        if not isinstance(self.groups, Mapping):
            return tuple(dict.fromkeys(self.groups(name) for name in parameters))
        for group, prefixes in self.groups.items():
            unmatched = [p for p in prefixes if not any(_under(name, p) for name in parameters)]
            if unmatched or not prefixes:
                raise GradientError(
                    f"group {group!r}: no trainable parameter is named {unmatched}",
                    remedy=f"use prefixes of {sorted(parameters)}",
                )
        return tuple(self.groups)

    def needs(self, trace: Trace) -> frozenset[str]:
        """All watched parameters; of groups by prefix, those that are in one."""
        if not isinstance(self.groups, Mapping):
            return frozenset(trace.shapes)
        self.names(trace.shapes)
        return frozenset(name for name in trace.shapes if self._of(name))

    def measure(self, gradients: Gradients) -> Tensor:
        """Sums of the parameters' squared norms."""
        shapes = gradients.trace.shapes
        if self.groups is None:
            return sum((gradients.squared_norm(name) for name in shapes), gradients.zeros.clone())
        columns = {group: gradients.zeros.clone() for group in self.names(shapes)}
        for name in shapes:
            for group in self._of(name):
                columns[group] += gradients.squared_norm(name)
        return _columns(list(columns.values()), gradients)

    def _of(self, name: str) -> Sequence[str]:
        if isinstance(self.groups, Mapping):
            return [g for g, prefixes in self.groups.items() if any(_under(name, p) for p in prefixes)]
        return [] if self.groups is None else [self.groups(name)]


def _ordered(groups: Groups | None) -> Any:
    """What makes two groupings equal: also the order of their columns."""
    return [(k, list(v)) for k, v in groups.items()] if isinstance(groups, Mapping) else groups


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def _columns(values: Sequence[Tensor], gradients: Gradients) -> Tensor:
    """[N, k] of k columns; k may be 0."""
    return torch.stack(list(values), dim=1) if values else gradients.zeros.unsqueeze(1)[:, :0]


@dataclass(frozen=True)
class LastLayer:
    """The squared gradient norm of the last layer alone, [N]; by itself it costs little over a forward pass.

    Parameters
    ----------
    layer:
        dotted name of the layer, or of several. Default: the layer called last among those that own a matrix.
    key:
        where the result is found.
    """

    layer: str | Sequence[str] | None = None
    key: str = "last_layer_squared_norm"

    def needs(self, trace: Trace) -> frozenset[str]:
        """The parameters of the last layer.

        Raises
        ------
        GradientError
            when there is no such layer.
        """
        if self.layer is None:
            matrices = [
                names
                for names in trace.layers.values()
                if any(len(trace.shapes[name]) == 2 for name in names)
            ]
            if not matrices:
                raise GradientError(
                    "the model has no layer with a weight matrix", remedy="name the layer: LastLayer('head')"
                )
            return frozenset(matrices[-1])
        wanted = [self.layer] if isinstance(self.layer, str) else list(self.layer)
        names = frozenset(name for name in trace.shapes if any(_under(name, layer) for layer in wanted))
        if not names:
            raise GradientError(
                f"no trainable parameter lies under layer {self.layer!r}",
                remedy=f"choose one of {sorted(trace.layers)}",
            )
        return names

    def measure(self, gradients: Gradients) -> Tensor:
        """The sum of its parameters' squared norms."""
        names = sorted(self.needs(gradients.trace))
        return sum((gradients.squared_norm(name) for name in names), gradients.zeros.clone())


class Dots:
    """Inner products ``<grad_n, v>`` with fixed vectors, [N, vectors] (TracIn, Pruthi et al. 2020).

    Build it once and reuse it: the vectors are laid out for the products on first use.

    Parameters
    ----------
    vectors:
        name -> (parameter name -> tensor of its shape). Left-out parameters count as zeros, and their layers
        are not even differentiated.
    key:
        where the result is found.

    Attributes
    ----------
    names:
        of the vectors, in the order of the columns.
    """

    def __init__(self, vectors: Mapping[str, Mapping[str, Tensor]], *, key: str = "dots") -> None:
        self.key = key
        self.directions = Directions(vectors)
        self.names = self.directions.names

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dots) and self.key == other.key and self.directions.equal(other.directions)

    def __hash__(self) -> int:
        return hash((type(self), self.key))

    def needs(self, trace: Trace) -> frozenset[str]:
        """The parameters that some vector names.

        Raises
        ------
        GradientError
            for a vector of an unknown parameter or of another shape.
        """
        self.directions.check(trace.shapes)
        return self.directions.parameters

    def measure(self, gradients: Gradients) -> Tensor:
        """One column a vector."""
        total = gradients.zeros.new_zeros(len(gradients.zeros), len(self.names))
        for name in sorted(self.directions.parameters):
            self.directions.dots(name, gradients.forms.get(name, ()), total)
        return total


@dataclass(frozen=True)
class Projections:
    """Kronecker-structured random projections (TRAK, Park et al. 2023; LoGra, Choe et al. 2024).

    Measures [N, k], one sketch of the whole gradient: parameter after parameter, as :meth:`slices` tells.

    Parameters
    ----------
    rank:
        rows of each of the two random matrices of a layer; a matrix gives at most rank^2 columns.
    seed:
        of the random signs; the same seed projects alike in every process and batch.
    key:
        where the result is found.
    """

    rank: int = 8
    seed: int = 0
    key: str = "projections"

    def slices(self, shapes: Shapes) -> dict[str, slice]:
        """Columns of each parameter, for a model with these parameters (``engine.shapes``)."""
        found, start = {}, 0
        for name, shape in shapes.items():
            found[name] = slice(start, start := start + projected_size(shape, self.rank))
        return found

    def needs(self, trace: Trace) -> frozenset[str]:
        """All watched parameters.

        Raises
        ------
        GradientError
            for a rank below 1.
        """
        if self.rank < 1:
            raise GradientError(f"Projections(rank={self.rank})", remedy="use a rank of at least 1")
        return frozenset(trace.shapes)

    def measure(self, gradients: Gradients) -> Tensor:
        """The parameters' projections side by side."""
        slices = self.slices(gradients.trace.shapes)
        width = max((part.stop for part in slices.values()), default=0)
        total = gradients.zeros.new_zeros(len(gradients.zeros), width)
        for name, shape in gradients.trace.shapes.items():
            if name in gradients.forms:
                total[:, slices[name]] = project(
                    name, shape, gradients.forms[name], rank=self.rank, seed=self.seed
                )
        return total
