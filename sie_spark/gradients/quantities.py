"""What can be asked of the per-sample gradients; any selection is answered from one shared pass.

A quantity says which parameters it needs, so that a last-layer question stops the backward pass at
the last layer, and measures them from their factored forms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from sie_spark.gradients.algebra import Squares, squared_norm
from sie_spark.gradients.directions import Directions
from sie_spark.gradients.errors import GradientError
from sie_spark.gradients.forms import Form
from sie_spark.gradients.projection import project, projected_size

__all__ = ["Dots", "Gradients", "LastLayer", "Measured", "Norms", "Projections", "Quantity", "Trace", "merge"]

Groups = Callable[[str], str] | Mapping[str, Sequence[str]]


@dataclass
class Measured:
    """Per-sample results, accumulation dtype (float32, or float64 for float64 models), detached.

    Attributes:
        squared_norm: ``||grad_n||^2`` over all watched parameters, [N]; None when not asked for.
        group_squared_norms: the same by group of parameters, each [N].
        last_layer_squared_norm: the same over the last layer alone, [N].
        dots: ``<grad_n, v>`` by name of v, each [N].
        projections: by parameter, each [N, k]; ``torch.cat(list(projections.values()), 1)`` is one
            sketch of the whole gradient.
    """

    squared_norm: Tensor | None = None
    group_squared_norms: dict[str, Tensor] = field(default_factory=dict)
    last_layer_squared_norm: Tensor | None = None
    dots: dict[str, Tensor] = field(default_factory=dict)
    projections: dict[str, Tensor] = field(default_factory=dict)


def merge(parts: Sequence[Measured]) -> Measured:
    """The results of consecutive blocks of samples, as of one batch."""
    if len(parts) == 1:
        return parts[0]
    into = Measured()
    for name in vars(into):
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], dict):
            setattr(into, name, {key: torch.cat([value[key] for value in values]) for key in values[0]})
        elif values[0] is not None:
            setattr(into, name, torch.cat(values))
    return into


@dataclass(frozen=True)
class Trace:
    """What the forward pass used: shapes of the watched parameters, and layers in the order of their last call."""

    shapes: Mapping[str, torch.Size]
    layers: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Gradients:
    """The per-sample gradients of one scalar loss, factored.

    ``forms`` lacks parameters of zero gradient; ``summed`` is False for one task of several.
    """

    trace: Trace
    forms: Mapping[str, Sequence[Form]]
    squares: Squares
    zeros: Tensor
    summed: bool = True

    def squared_norm(self, name: str) -> Tensor:
        """``||gradient of one parameter||^2``, [N]."""
        return squared_norm(self.forms[name], self.squares) if name in self.forms else self.zeros


class Quantity(Protocol):
    """Something measured of the per-sample gradients."""

    def needs(self, trace: Trace) -> frozenset[str]:
        """Names of the parameters whose gradients are read."""
        ...

    def measure(self, gradients: Gradients, into: Measured) -> None:
        """Fill this quantity's fields."""
        ...


@dataclass(frozen=True)
class Norms:
    """Squared gradient norms: in total and by group (GraNd, Paul et al. 2021; Goodfellow 2015).

    Args:
        groups: None; a function from parameter name to group (``lambda name: name`` for each alone);
            or group -> prefixes of parameter names (``{"tables": ["embedding"]}``), where names that
            match nothing are left out of the groups but not of the total.
    """

    groups: Groups | None = None

    def needs(self, trace: Trace) -> frozenset[str]:
        """All watched parameters."""
        return frozenset(trace.shapes)

    def measure(self, gradients: Gradients, into: Measured) -> None:
        """Fill ``squared_norm`` and ``group_squared_norms``."""
        total = gradients.zeros.clone()
        groups: dict[str, Tensor] = {
            group: gradients.zeros.clone() for group in self._declared(gradients.trace)
        }
        for name in gradients.trace.shapes:
            value = gradients.squared_norm(name)
            total += value
            for group in self._of(name):
                groups[group] = groups.get(group, gradients.zeros) + value
        into.squared_norm, into.group_squared_norms = total, groups

    def _declared(self, trace: Trace) -> Sequence[str]:
        if not isinstance(self.groups, Mapping):
            return ()
        for group, prefixes in self.groups.items():
            unmatched = [p for p in prefixes if not any(_under(name, p) for name in trace.shapes)]
            if unmatched or not prefixes:
                raise GradientError(
                    f"group {group!r}: no trainable parameter is named {unmatched}",
                    remedy=f"use prefixes of {sorted(trace.shapes)}",
                )
        return tuple(self.groups)

    def _of(self, name: str) -> Sequence[str]:
        if self.groups is None:
            return ()
        if isinstance(self.groups, Mapping):
            return [g for g, prefixes in self.groups.items() if any(_under(name, p) for p in prefixes)]
        return [self.groups(name)]


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@dataclass(frozen=True)
class LastLayer:
    """The squared gradient norm of the last layer alone; asked for alone it costs little over a forward.

    Args:
        layer: dotted name of the layer, or of several. Default: the layer called last among those
            that own a matrix.
    """

    layer: str | Sequence[str] | None = None

    def needs(self, trace: Trace) -> frozenset[str]:
        """The parameters of the last layer."""
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

    def measure(self, gradients: Gradients, into: Measured) -> None:
        """Fill ``last_layer_squared_norm``."""
        total = gradients.zeros.clone()
        for name in sorted(self.needs(gradients.trace)):
            total += gradients.squared_norm(name)
        into.last_layer_squared_norm = total


class Dots:
    """Inner products with fixed vectors, several at once (TracIn, Pruthi et al. 2020).

    Build it once and reuse it: the vectors are laid out for the products on first use.

    Args:
        vectors: name -> (parameter name -> tensor of its shape). Left-out parameters count as zeros,
            and their layers are not even differentiated.
    """

    def __init__(self, vectors: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.directions = Directions(vectors)

    def needs(self, trace: Trace) -> frozenset[str]:
        """The parameters that some vector names."""
        self.directions.check(trace.shapes)
        return self.directions.parameters

    def measure(self, gradients: Gradients, into: Measured) -> None:
        """Fill ``dots``."""
        total = gradients.zeros.new_zeros(len(gradients.zeros), len(self.directions.names))
        for name in sorted(self.directions.parameters):
            self.directions.dots(name, gradients.forms.get(name, ()), total)
        into.dots = dict(zip(self.directions.names, total.unbind(dim=1), strict=True))


@dataclass(frozen=True)
class Projections:
    """Kronecker-structured random projections (TRAK, Park et al. 2023; LoGra, Choe et al. 2024).

    Args:
        rank: rows of each of the two random matrices of a layer; a matrix gives at most rank^2 columns.
        seed: of the random signs; the same seed projects alike in every process and batch.
    """

    rank: int = 8
    seed: int = 0

    def needs(self, trace: Trace) -> frozenset[str]:
        """All watched parameters."""
        if self.rank < 1:
            raise GradientError(f"Projections(rank={self.rank})", remedy="use a rank of at least 1")
        return frozenset(trace.shapes)

    def measure(self, gradients: Gradients, into: Measured) -> None:
        """Fill ``projections``."""
        for name, shape in gradients.trace.shapes.items():
            if name in gradients.forms:
                value = project(name, shape, gradients.forms[name], rank=self.rank, seed=self.seed)
            else:
                value = gradients.zeros.new_zeros(len(gradients.zeros), projected_size(shape, self.rank))
            into.projections[name] = value
