"""A small model of two tasks with a batch, its losses, and the gradient of one of its samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sie_spark.models.layers import Bias, FieldEmbedding


class TwoHeads(nn.Module):
    """A shared bottom; one head reads a layer the other never touches."""

    def __init__(self) -> None:
        super().__init__()
        self.table = FieldEmbedding([4, 4], 3)
        self.bottom, self.dropout = nn.Linear(6, 5), nn.Dropout(0.5)
        self.click, self.buy = (
            nn.Linear(5, 1),
            nn.Sequential(nn.Linear(5, 2), nn.ReLU(inplace=True), nn.Linear(2, 1)),
        )
        self.bias = Bias(2)

    def forward(self, cat: Tensor) -> Tensor:
        hidden = torch.tanh(self.bottom(self.dropout(self.table(cat).flatten(1))))
        return self.bias(torch.cat([self.click(hidden), self.buy(hidden)], dim=1))


cat = torch.tensor([[0, 1], [1, 1], [3, 2], [0, 0], [2, 1]])
labels = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)


def per_task(output: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(output, labels, reduction="none")


def row_gradient(model: nn.Module, row: int, task: int | None) -> dict[str, Tensor]:
    """One backward of one sample, for one task or for the sum of both."""
    model.eval()
    loss = nn.functional.binary_cross_entropy_with_logits(
        model(cat[row : row + 1])[0], labels[row], reduction="none"
    )
    loss = loss.sum() if task is None else loss[task]
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    pairs = zip(model.named_parameters(), grads, strict=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}
