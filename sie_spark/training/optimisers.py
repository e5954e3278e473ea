"""Adam for dense parameters; for large embedding tables the sparse form, which touches only the rows in a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sie_spark.platform.config import Training

SPARSE_FROM = 20_000  # rows of a table; below, a dense step is as fast and keeps its momentum


@dataclass
class Optimisers:
    """One or two optimisers that step together, and the parameters of each kind.

    Parameters
    ----------
    tables:
        embedding tables among the dense parameters.
    last:
        for each sparse table the update, counted from 1, that last touched a row of it, int32 [rows].
    updates:
        how many there were.
    """

    dense: list[nn.Parameter]
    sparse: list[nn.Parameter]
    steppers: list[torch.optim.Optimizer]
    rates: list[list[float]]
    tables: list[nn.Parameter]
    last: list[Tensor]
    updates: int = 0

    def step(self, factor: float, penalty: float = 0.0) -> None:
        """One update at ``factor`` times the learning rates.

        ``penalty`` times a table's values joins its gradient: an L2 penalty of the mean loss. A row of a sparse
        table makes up for the updates since it was last touched.
        """
        self.updates += 1
        if penalty:
            self._penalise(penalty)
        for stepper, rates in zip(self.steppers, self.rates, strict=True):
            for group, rate in zip(stepper.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            stepper.step()

    def _penalise(self, penalty: float) -> None:
        for table in self.tables:
            if table.grad is not None:
                table.grad.add_(table.detach(), alpha=penalty)
        for table, last in zip(self.sparse, self.last, strict=True):
            if table.grad is None:
                continue
            gradient = table.grad.coalesce()
            rows = gradient.indices()[0]
            missed = (self.updates - last[rows]).to(table.dtype).unsqueeze(1)
            last[rows] = self.updates
            gradient.values().add_(penalty * missed * table.detach()[rows])
            table.grad = gradient

    def zero(self) -> None:
        """Forget the gradients."""
        for stepper in self.steppers:
            stepper.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        steppers = [stepper.state_dict() for stepper in self.steppers]
        return {"steppers": steppers, "last": self.last, "updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        for stepper, held in zip(self.steppers, state["steppers"], strict=True):
            stepper.load_state_dict(held)
        self.last, self.updates = state["last"], state["updates"]


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
        groups.append({"params": small, "lr": table_rate, "weight_decay": 0.0})
    if groups:
        steppers.append(torch.optim.AdamW(groups, fused=True))
    if sparse:
        steppers.append(torch.optim.SparseAdam(sparse, lr=table_rate))
    rates = [[float(group["lr"]) for group in stepper.param_groups] for stepper in steppers]
    last = [torch.zeros(len(table), dtype=torch.int32) for table in sparse]
    return Optimisers(rest + small, sparse, steppers, rates, small, last)


def _may_be_sparse(table: nn.Embedding | nn.EmbeddingBag, choice: str) -> bool:
    if choice == "dense" or table.max_norm is not None or table.scale_grad_by_freq:
        return False
    if isinstance(table, nn.EmbeddingBag) and table.mode == "max":
        return False
    return choice == "sparse" or table.num_embeddings >= SPARSE_FROM
