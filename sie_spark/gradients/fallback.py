"""Gradients of small raw parameters that belong to no layer with a rule, formed entry by entry.

Forward mode costs one forward pass an entry and is exact however the parameter is used; it is opted
into by name and limited in size because it does materialise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from sie_spark.gradients.errors import UnsupportedParameter

__all__ = ["LIMIT", "jacobian"]

LIMIT = 1024


def jacobian(
    model: nn.Module, name: str, inputs: Mapping[str, Tensor], loss: Callable[[Tensor], Tensor]
) -> Tensor:
    """d loss / d parameter ``name`` for every sample: [N, numel], or [N, tasks, numel].

    Raises
    ------
    UnsupportedParameter
        for more than ``LIMIT`` entries, or an operation without a forward derivative.
    """
    parameter = model.get_parameter(name).detach()
    if parameter.numel() > LIMIT:
        raise UnsupportedParameter(
            f"parameter {name!r} has {parameter.numel()} entries; materialising stops at {LIMIT}",
            remedy="move it into a layer of its own and register a rule (sie_spark.gradients.rule)",
        )

    def along(tangent: Tensor) -> Tensor:
        def value(entries: Tensor) -> Tensor:
            return loss(cast(Tensor, functional_call(model, {name: entries}, (), dict(inputs))))

        return cast(Tensor, jvp(value, (parameter,), (tangent,))[1])

    basis = torch.eye(parameter.numel(), dtype=parameter.dtype, device=parameter.device)
    try:
        with torch.no_grad():
            # A plain loop: torch 2.15's vmap gives wrong second derivatives through layer_norm, so none is used.
            return torch.stack([along(entry.view_as(parameter)) for entry in basis], dim=-1)
    except NotImplementedError as error:
        raise UnsupportedParameter(
            f"parameter {name!r} passes through an operation without a forward derivative: {error}",
            remedy="move it into a layer of its own and register a rule (sie_spark.gradients.rule)",
        ) from error
