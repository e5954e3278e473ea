"""One forward pass that remembers the calls of layers with a rule, and proves it has seen every use.

Gradients are then taken in the recorded outputs only: autograd never forms a parameter's gradient,
which is half of a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils._pytree import tree_leaves, tree_map_only

from sie_spark.gradients.errors import UnsupportedLayer, UnsupportedParameter

__all__ = ["Recorded", "evaluating", "prove_coverage", "record"]

Run = Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Recorded:
    """A call as seen by the hook: what went in, at which version, and where the gradient arrives."""

    name: str
    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    versions: tuple[int, ...]
    inputs: tuple[Any, ...]
    edge: GradientEdge
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    widened: bool = False

    @property
    def leading(self) -> int:
        """The first dimension of what the layer returned: the number of samples, if it is one."""
        return self.shape[0] if self.shape else 1

    @property
    def shared(self) -> bool:
        """Whether the batch went in as one row: every tensor, numbers apart, has the first dimension 1."""
        return _one_row(self.args, self.kwargs) and self.leading == 1

    def tensors(self) -> list[Tensor]:
        """Every tensor that went in."""
        return _tensors(self.args, self.kwargs)

    def zeros(self) -> Tensor:
        """A gradient of zeros for the output."""
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)

    def unchanged(self) -> None:
        """Raise when an input was overwritten after the call: the rule would read the wrong values."""
        if _versions(self.args, self.kwargs) != self.versions:
            raise UnsupportedLayer(
                f"an input of layer {self.name!r} was changed in place after the call",
                remedy="replace the in-place operation on it (x += ..., x.relu_(), inplace=True) by one that returns",
            )


def _tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    return [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]


def _one_row(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    sizes = {len(x) for x in _tensors(args, kwargs) if x.dim()}
    return sizes == {1}


def _versions(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(-1 if x.is_inference() else x._version for x in _tensors(args, kwargs))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every layer in eval mode (dropout off), each layer's own mode put back afterwards."""
    modes = [(layer, layer.training) for layer in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def record(
    layers: Mapping[str, nn.Module], run: Run, *, widen: Collection[str] = (), samples: int | None = None
) -> tuple[Tensor, list[Recorded]]:
    """Run ``run()`` and return its output with every call of ``layers`` (name -> layer), in call order.

    Parameters
    ----------
    layers:
        the layers to watch, by name.
    run:
        runs the model.
    widen:
        names of layers that are given one row for the whole batch, such as position ids [1, T]. What goes into
        them is expanded to [samples, T], without a copy, so that each sample has a gradient of its own.
    samples:
        size of the batch; None, or 1, widens nothing.

    Raises
    ------
    UnsupportedLayer
        when a layer returned something else than a tensor, or ran without gradients.
    """
    calls: list[Recorded] = []
    widened: set[str] = set()

    def before(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]:
        def expand(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            widened.discard(name)
            if not _one_row(args, kwargs):
                return None
            widened.add(name)
            return tree_map_only(
                Tensor, lambda x: x.expand(samples, *x.shape[1:]) if x.dim() else x, (args, kwargs)
            )

        return expand

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
        def remember(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if not isinstance(output, Tensor) or not output.requires_grad:
                what = "returned no tensor" if not isinstance(output, Tensor) else "was called under no_grad"
                raise UnsupportedLayer(
                    f"layer {name!r} ({type(layer).__name__}) {what}, so its gradient cannot be followed",
                    remedy="return one tensor computed with gradients (no reentrant checkpointing), "
                    "or freeze the layer with requires_grad_(False)",
                )
            inputs = tuple(get_gradient_edge(x).node for x in _tensors(args, kwargs) if x.requires_grad)
            calls.append(
                Recorded(
                    name=name,
                    layer=layer,
                    args=args,
                    kwargs=kwargs,
                    versions=_versions(args, kwargs),
                    inputs=inputs,
                    edge=get_gradient_edge(output),
                    shape=output.shape,
                    dtype=output.dtype,
                    device=output.device,
                    widened=name in widened,
                )
            )

        return remember

    # First in line, so that a user's own hook which replaces the output is part of what follows.
    handles = [
        layer.register_forward_hook(hook(name), prepend=True, with_kwargs=True)
        for name, layer in layers.items()
    ]
    # Last in line, so that it sees what the layer itself would have been given.
    handles += [
        layers[name].register_forward_pre_hook(before(name), with_kwargs=True)
        for name in (widen if samples is not None and samples > 1 else ())
    ]
    try:
        return run(), calls
    finally:
        for handle in handles:
            handle.remove()


def prove_coverage(loss: Tensor, calls: list[Recorded], parameters: Mapping[int, str]) -> list[Recorded]:
    """The calls that reach ``loss``; raise when a parameter reaches it by any other way.

    Walks the graph from the loss and steps over each recorded call, from its output to its inputs.
    Whatever parameter is still met was used outside of a layer with a rule.

    Parameters
    ----------
    loss:
        anything with a ``grad_fn``; without one no parameter reaches it.
    calls:
        recorded calls.
    parameters:
        id of each watched parameter -> its name.

    Raises
    ------
    UnsupportedParameter
        when a parameter was used directly, or an output was replaced in place.
    """
    by_node: dict[Any, list[Recorded]] = {}
    for call in calls:
        by_node.setdefault(call.edge.node, []).append(call)
    start = loss.grad_fn
    if start is None:
        return []
    seen = {start}
    stack: list[Any] = [start]
    while stack:
        node = stack.pop()
        if node in by_node:
            following = [source for call in by_node[node] for source in call.inputs]
        else:
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) in parameters:
                raise UnsupportedParameter(
                    f"parameter {parameters[id(variable)]!r} is used outside of its layer's call "
                    "(functionally, or after an in-place change of the layer's output)",
                    remedy="call the layer instead of using its weight, replace the in-place operation, "
                    "or name the parameter in Engine(materialise=...)",
                )
            following = [source for source, _ in node.next_functions]
        for source in following:
            if source is not None and source not in seen:
                seen.add(source)
                stack.append(source)
    return [call for call in calls if call.edge.node in seen]
