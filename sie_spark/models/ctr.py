"""Reference rankers. Each maps an encoded row to one logit and is built of layers with a gradient rule."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sie_spark.models.inputs import InputLayer, slot
from sie_spark.models.layers import FM, CrossV2, MultiHeadAttention
from sie_spark.models.registry import MODELS
from sie_spark.platform.config import Model
from sie_spark.platform.inputs import InputSpec


def mlp(width: int, hidden: list[int], dropout: float) -> tuple[nn.Sequential, int]:
    """ReLU layers and the width they end with."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = size
    return nn.Sequential(*layers), width


def output_layer(width: int) -> nn.Linear:
    """The layer that makes the logit, started at zero: every model begins as a constant.

    Random weights on raw numbers are opinions that a few hundred small updates cannot take back.
    """
    layer = nn.Linear(width, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@MODELS.add("lr")
class LogisticRegression(nn.Module):
    """One weight an id and a number (McMahan et al. 2013)."""

    def __init__(self, inputs: InputSpec, settings: Model) -> None:
        super().__init__()
        self.input = InputLayer(inputs, 1)
        self.output = output_layer(max(self.input.numbers, 1))

    def forward(self, cat: Tensor, dense: Tensor, **extras: Tensor) -> Tensor:
        """Logits [N]."""
        fields, numbers = self.input(cat, dense, **extras)
        if not self.input.numbers:
            numbers = fields.new_zeros(fields.shape[0], 1)
        return self.output(numbers).squeeze(1) + fields.sum(dim=(1, 2))


@MODELS.add("fm")
class FactorisationMachine(nn.Module):
    """First order plus all pairs of fields (Rendle 2010)."""

    def __init__(self, inputs: InputSpec, settings: Model) -> None:
        super().__init__()
        self.linear = LogisticRegression(inputs, settings)
        self.input = InputLayer(inputs, settings.embedding_dim)
        self.pairs = FM()

    def forward(self, cat: Tensor, dense: Tensor, **extras: Tensor) -> Tensor:
        """Logits [N]."""
        fields, _ = self.input(cat, dense, **extras)
        return self.linear(cat, dense, **extras) + self.pairs(fields)


@MODELS.add("dnn")
class DeepNetwork(nn.Module):
    """Embeddings into a multi-layer perceptron (Covington et al. 2016)."""

    def __init__(self, inputs: InputSpec, settings: Model) -> None:
        super().__init__()
        self.input = InputLayer(inputs, settings.embedding_dim)
        self.deep, width = mlp(self.input.width, settings.hidden, settings.dropout)
        self.output = output_layer(width)

    def forward(self, cat: Tensor, dense: Tensor, **extras: Tensor) -> Tensor:
        """Logits [N]."""
        return self.output(self.deep(self.input.flat(*self.input(cat, dense, **extras)))).squeeze(1)


@MODELS.add("deepfm")
class DeepFM(nn.Module):
    """Factorisation machine and perceptron over the same embeddings (Guo et al. 2017)."""

    def __init__(self, inputs: InputSpec, settings: Model) -> None:
        super().__init__()
        self.linear = LogisticRegression(inputs, settings)
        self.input = InputLayer(inputs, settings.embedding_dim)
        self.pairs = FM()
        self.deep, width = mlp(self.input.width, settings.hidden, settings.dropout)
        self.output = output_layer(width)

    def forward(self, cat: Tensor, dense: Tensor, **extras: Tensor) -> Tensor:
        """Logits [N]."""
        fields, numbers = self.input(cat, dense, **extras)
        deep = self.output(self.deep(self.input.flat(fields, numbers))).squeeze(1)
        return self.linear(cat, dense, **extras) + self.pairs(fields) + deep


@MODELS.add("dcnv2")
class DCNv2(nn.Module):
    """Full-rank crosses in parallel with a perceptron (Wang et al. 2021)."""

    def __init__(self, inputs: InputSpec, settings: Model) -> None:
        super().__init__()
        self.input = InputLayer(inputs, settings.embedding_dim)
        width = self.input.width
        self.crosses = nn.ModuleList(CrossV2(width) for _ in range(settings.cross_layers))
        self.deep, deep_width = mlp(width, settings.hidden, settings.dropout)
        self.output = output_layer(width + deep_width)

    def forward(self, cat: Tensor, dense: Tensor, **extras: Tensor) -> Tensor:
        """Logits [N]."""
        x0 = self.input.flat(*self.input(cat, dense, **extras))
        x = x0
        for cross in self.crosses:
            x = cross(x0, x)
        return self.output(torch.cat([x, self.deep(x0)], dim=1)).squeeze(1)


@MODELS.add("history_attention")
class HistoryAttention(nn.Module):
    """Attends from the shown item to the user's recent items (Zhou et al. 2018, with dot-product attention).

    Sequences share the table of a category; the attention of the last pass says which past events mattered.
    """

    def __init__(self, inputs: InputSpec, settings: Model, heads: int = 2) -> None:
        super().__init__()
        shared = [name for name in inputs.sequences if name in inputs.shares]
        if not shared:
            raise ValueError(
                "history_attention needs a feature of kind 'sequence' over a category; "
                "add one, or choose model dcnv2"
            )
        self.sequences = shared
        self.input = InputLayer(inputs, settings.embedding_dim, pool_sequences=False)
        self.targets = {name: list(inputs.categories).index(inputs.shares[name]) for name in shared}
        self.attention = nn.ModuleDict(
            {slot(name): MultiHeadAttention(settings.embedding_dim, heads) for name in shared}
        )
        width = self.input.width + len(shared) * settings.embedding_dim
        self.deep, deep_width = mlp(width, settings.hidden, settings.dropout)
        self.output = output_layer(deep_width)

    def forward(self, cat: Tensor, dense: Tensor, **extras: Tensor) -> Tensor:
        """Logits [N]."""
        fields, numbers = self.input(cat, dense, **extras)
        parts = [self.input.flat(fields, numbers)]
        for name in self.sequences:
            vectors, mask = self.input.lookup(name, extras[name])
            target = fields[:, self.targets[name] : self.targets[name] + 1]
            parts.append(self.attention[slot(name)](target, vectors, mask=mask).squeeze(1))
        return self.output(self.deep(torch.cat(parts, dim=1))).squeeze(1)
