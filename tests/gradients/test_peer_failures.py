"""Cases that established libraries get silently wrong, each worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sie_spark.gradients import Norms, per_sample


def squared_norm(model: nn.Module, inputs: Tensor) -> object:
    """Squared norms [N] of the gradient of the summed output, as values to compare with to rounding."""
    result = per_sample(model.double(), {"input": inputs}, lambda o: o.flatten(1).sum(dim=1), Norms())
    return pytest.approx(result["squared_norm"].tolist(), rel=1e-12)


def test_padding_receives_nothing() -> None:
    # Each looked-up entry has gradient 1; of three positions one is padding, the others differ.
    assert squared_norm(nn.Embedding(5, 2, padding_idx=0), torch.tensor([[0, 3, 4], [0, 0, 0]])) == [4.0, 0.0]


def test_an_id_repeated_in_a_sample_adds_before_it_is_squared() -> None:
    # Row 3 twice: (1 + 1)^2 an entry, not 1 + 1.
    assert squared_norm(nn.Embedding(5, 2), torch.tensor([[3, 3], [3, 4]])) == [8.0, 4.0]


def test_an_id_repeated_in_a_bag() -> None:
    ids = torch.tensor([[3, 3, 1], [1, 2, 3]])
    assert squared_norm(nn.EmbeddingBag(5, 2, mode="sum"), ids) == [2 * (4.0 + 1), 2 * 3.0]
    assert squared_norm(nn.EmbeddingBag(5, 2, mode="mean"), ids) == [2 * 5 / 9, 2 * 3 / 9]


def test_the_mean_of_a_bag_does_not_count_padding() -> None:
    # Two of four are padding: n = 2, so each of two distinct rows receives 1/2 an entry.
    bag = nn.EmbeddingBag(5, 2, mode="mean", padding_idx=0)
    assert squared_norm(bag, torch.tensor([[0, 3, 0, 4], [0, 0, 0, 0]])) == [2 * (0.25 + 0.25), 0.0]


def test_an_empty_bag() -> None:
    bag = nn.EmbeddingBag(5, 2, mode="mean").double()
    inputs = {"input": torch.tensor([1, 1, 2]), "offsets": torch.tensor([0, 0, 2])}
    result = per_sample(bag, inputs, lambda o: o.sum(dim=1), Norms(), block=None)
    assert result["squared_norm"].tolist() == pytest.approx([0.0, 2.0, 2.0])


class SharedByFields(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 2)

    def forward(self, input: Tensor) -> Tensor:
        return self.table(input[:, 0]) + self.table(input[:, 1])


def test_a_table_shared_by_fields_adds_over_its_calls() -> None:
    assert squared_norm(SharedByFields(), torch.tensor([[3, 3], [3, 4]])) == [8.0, 4.0]


def test_linear_on_more_than_three_dimensions() -> None:
    x = torch.randn(2, 3, 4, 5).double()
    total = x.sum(dim=(1, 2))
    expected = [2 * float(row.square().sum()) + 2 * 12.0**2 for row in total]
    assert squared_norm(nn.Linear(5, 2), x) == expected


def test_batch_norm_scores_with_running_statistics() -> None:
    model = nn.BatchNorm1d(3, eps=0.0).eval()
    model.running_mean.fill_(1.0)
    model.running_var.fill_(4.0)
    x = torch.tensor([[3.0, 1.0, -1.0]], dtype=torch.float64)
    assert squared_norm(model, x) == [(1.0 + 0.0 + 1.0) + 3.0]  # xhat = (1, 0, -1), and the bias


def test_dropout_is_off_while_scoring() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1, bias=False)).train()
    assert squared_norm(model, torch.ones(4, 3).double()) == [3.0] * 4
