"""One rule a layer type: how a call of that layer turns into the gradient of its own parameters.

The engine knows no layer by name; adding a layer is one decorated function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from sie_spark.gradients.errors import UnsupportedLayer
from sie_spark.gradients.forms import Form

__all__ = ["Call", "find_rule", "refusal", "refuse", "rule"]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer during the shared forward pass, with the gradient of what it returned.

    Attributes
    ----------
    name:
        dotted name of the layer in the model.
    args:
        positional arguments of the call; floating tensors in the accumulation dtype.
    kwargs:
        keyword arguments of the call, likewise.
    delta:
        gradient of the summed loss in the call's output, [N, ...], accumulation dtype.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    delta: Tensor

    def argument(self, position: int, name: str) -> Any:
        """The argument at ``position``, or passed as ``name``; None when it was not given."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name)


Forms = Mapping[str, Form]
Rule = Callable[[Any, Call], Forms]
Reason = Callable[[Any], str | None]
R = TypeVar("R", bound=Rule)

_rules: dict[type[nn.Module], Rule] = {}
_reasons: dict[type[nn.Module], Reason] = {}


def rule(*layers: type[nn.Module]) -> Callable[[R], R]:
    """Register the per-sample gradient rule of one or more layer types.

    The function gets the layer and a :class:`Call`, and returns for each of the layer's own
    parameters (by its name inside the layer) an ``Outer``, ``Rows`` or ``Dense``::

        @rule(Scale)                       # forward(x) = x * self.weight, weight [d], x [N, d]
        def scale(layer: Scale, call: Call) -> dict[str, Form]:
            return {"weight": Dense(call.delta * call.argument(0, "x"))}

    A subclass inherits the rule only while it keeps the layer's own ``forward``.
    """

    def register(function: R) -> R:
        for layer in layers:
            _rules[layer] = function
        return function

    return register


def refuse(*layers: type[nn.Module]) -> Callable[[Reason], Reason]:
    """Register a test that says why a layer, as configured, has no exact rule (None: it has one)."""

    def register(function: Reason) -> Reason:
        for layer in layers:
            _reasons[layer] = function
        return function

    return register


def find_rule(layer: nn.Module) -> Rule | None:
    """The rule of the nearest base class whose ``forward`` the layer still uses, or None."""
    for base in type(layer).__mro__:
        if base in _rules:
            return _rules[base] if type(layer).forward is base.forward else None
    return None


def refusal(layer: nn.Module, name: str) -> None:
    """Raise :class:`UnsupportedLayer` when a registered reason speaks against this layer."""
    for base in type(layer).__mro__:
        reason = _reasons[base](layer) if base in _reasons else None
        if reason:
            what, _, remedy = reason.partition(": ")
            raise UnsupportedLayer(f"layer {name!r} ({type(layer).__name__}) {what}", remedy=remedy)
