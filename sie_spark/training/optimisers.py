"""Adam for dense parameters; for large embedding tables the sparse form, which touches only the rows in a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sie_spark.platform.config import Training

SPARSE_FROM = 20_000  # rows of a table; below, a dense step is as fast and keeps its momentum


@dataclass
class Optimisers:
    """One or two optimisers that step together, and the parameters of each kind."""

    dense: list[nn.Parameter]
    sparse: list[nn.Parameter]
    steppers: list[torch.optim.Optimizer]
    rates: list[list[float]]
    sparse_decay: float = 0.0

    def step(self, factor: float) -> None:
        """One update at ``factor`` times the learning rates."""
        for parameter in self.sparse if self.sparse_decay else []:
            if parameter.grad is not None:  # AdamW's decoupled decay, of the rows that the batch touched
                rows = parameter.grad.coalesce().indices()[0]
                with torch.no_grad():
                    parameter[rows] *= 1.0 - self.sparse_decay * factor
        for stepper, rates in zip(self.steppers, self.rates, strict=True):
            for group, rate in zip(stepper.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            stepper.step()

    def zero(self) -> None:
        """Forget the gradients."""
        for stepper in self.steppers:
            stepper.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        """For a checkpoint."""
        return [stepper.state_dict() for stepper in self.steppers]

    def restore(self, states: list[dict[str, Any]]) -> None:
        """From a checkpoint."""
        for stepper, state in zip(self.steppers, states, strict=True):
            stepper.load_state_dict(state)


def build_optimisers(model: nn.Module, settings: Training) -> Optimisers:
    """Optimisers of a model; its large tables are switched to sparse gradients."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    wanted = {
        id(table.weight)
        for table in tables
        if table.weight.requires_grad and _may_be_sparse(table, settings.embedding_optimizer)
    }
    # a table that is also used as a matrix gets dense gradients anyway
    others = {
        id(parameter)
        for module in model.modules()
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for parameter in module.parameters(recurse=False)
    }
    wanted -= others
    for table in tables:
        if id(table.weight) in wanted:
            table.sparse = True
    owned = {id(table.weight) for table in tables}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sparse = [parameter for parameter in parameters if id(parameter) in wanted]
    small = [parameter for parameter in parameters if id(parameter) in owned - wanted]
    rest = [parameter for parameter in parameters if id(parameter) not in owned]
    rate, table_rate = settings.learning_rate, settings.embedding_learning_rate or settings.learning_rate
    steppers: list[torch.optim.Optimizer] = []
    groups: list[dict[str, Any]] = []
    if rest:
        groups.append({"params": rest, "lr": rate, "weight_decay": settings.weight_decay})
    if small:
        groups.append({"params": small, "lr": table_rate, "weight_decay": settings.embedding_weight_decay})
    if groups:
        steppers.append(torch.optim.AdamW(groups, fused=True))
    if sparse:
        steppers.append(torch.optim.SparseAdam(sparse, lr=table_rate))
    rates = [[float(group["lr"]) for group in stepper.param_groups] for stepper in steppers]
    return Optimisers(
        rest + small, sparse, steppers, rates, sparse_decay=table_rate * settings.embedding_weight_decay
    )


def _may_be_sparse(table: nn.Embedding | nn.EmbeddingBag, choice: str) -> bool:
    if choice == "dense" or table.max_norm is not None or table.scale_grad_by_freq:
        return False
    if isinstance(table, nn.EmbeddingBag) and table.mode == "max":
        return False
    return choice == "sparse" or table.num_embeddings >= SPARSE_FROM
