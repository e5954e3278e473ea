"""Reference rankers. Each maps an encoded row to one logit and is built of layers with a gradient rule."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sie_spark.models.inputs import InputLayer, slot
from sie_spark.models.layers import FM, CrossV2, MultiHeadAttention
from sie_spark.models.registry import MODELS
from sie_spark.platform.config import Model
from sie_spark.platform.inputs import InputSpec


def mlp(width: int, settings: Model) -> tuple[nn.Sequential, int]:
    """ReLU layers and the width they end with."""
    layers: list[nn.Module] = []
    for size in settings.hidden:
        layers += [nn.Linear(width, size)]
        layers += [nn.LayerNorm(size)] if settings.normalise else []
        layers += [nn.ReLU()]
        layers += [nn.Dropout(settings.dropout)] if settings.dropout else []
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
    """One weight an id, a number and a piece of a number (McMahan et al. 2013)."""

    def __init__(self, inputs: InputSpec, settings: Model) -> None:
        super().__init__()
        self.input = InputLayer(inputs, 1, bins=settings.number_bins)
        self.output = output_layer(max(self.input.numbers + self.input.width_of_pieces, 1))

    def forward(self, cat: Tensor, dense: Tensor, **extras: Tensor) -> Tensor:
        """Logits [N]."""
        fields, numbers = self.input(cat, dense, **extras)
        numbers = torch.cat([numbers, self.input.pieces(dense)], dim=1)
        if not numbers.shape[1]:
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


class Deep(nn.Module):
    """A perceptron over embeddings, numbers and pieces; with ``model.wide`` a linear part beside it (Cheng et al. 2016).

    Parameters
    ----------
    attended:
        width of what a model puts into the perceptron beside the row's own inputs; it then pools no sequence.

    A model may widen :attr:`output`, which takes the last hidden layer here.
    """

    def __init__(self, inputs: InputSpec, settings: Model, *, attended: int = 0) -> None:
        super().__init__()
        self.input = InputLayer(
            inputs, settings.embedding_dim, pool_sequences=not attended, bins=settings.number_bins
        )
        width = self.input.width + self.input.width_of_pieces + attended
        self.deep, self.deep_width = mlp(width, settings)
        self.output = output_layer(self.deep_width)
        self.linear = LogisticRegression(inputs, settings) if settings.wide else None

    def logit(self, deep: list[Tensor], beside: list[Tensor], inputs: dict[str, Tensor]) -> Tensor:
        """Logits [N] from what goes into the perceptron, what stands beside it, and the row."""
        hidden = self.deep(torch.cat([*deep, self.input.pieces(inputs["dense"])], dim=1))
        logit = self.output(torch.cat([*beside, hidden], dim=1)).squeeze(1)
        return logit if self.linear is None else logit + self.linear(**inputs)


@MODELS.add("dnn")
class DeepNetwork(Deep):
    """Embeddings into a multi-layer perceptron (Covington et al. 2016)."""

    def __init__(self, inputs: InputSpec, settings: Model) -> None:
        super().__init__(inputs, settings)

    def forward(self, cat: Tensor, dense: Tensor, **extras: Tensor) -> Tensor:
        """Logits [N]."""
        inputs = {"cat": cat, "dense": dense, **extras}
        return self.logit([self.input.flat(*self.input(**inputs))], [], inputs)


@MODELS.add("deepfm")
class DeepFM(Deep):
    """Factorisation machine and perceptron over the same embeddings (Guo et al. 2017); it always has a linear part."""

    def __init__(self, inputs: InputSpec, settings: Model) -> None:
        super().__init__(inputs, settings.model_copy(update={"wide": True}))
        self.pairs = FM()

    def forward(self, cat: Tensor, dense: Tensor, **extras: Tensor) -> Tensor:
        """Logits [N]."""
        inputs = {"cat": cat, "dense": dense, **extras}
        fields, numbers = self.input(**inputs)
        return self.pairs(fields) + self.logit([self.input.flat(fields, numbers)], [], inputs)


@MODELS.add("dcnv2")
class DCNv2(Deep):
    """Full-rank crosses in parallel with a perceptron (Wang et al. 2021)."""

    def __init__(self, inputs: InputSpec, settings: Model) -> None:
        super().__init__(inputs, settings)
        width = self.input.width
        self.output = output_layer(width + self.deep_width)
        self.crosses = nn.ModuleList(CrossV2(width) for _ in range(settings.cross_layers))

    def forward(self, cat: Tensor, dense: Tensor, **extras: Tensor) -> Tensor:
        """Logits [N]."""
        inputs = {"cat": cat, "dense": dense, **extras}
        x0 = self.input.flat(*self.input(**inputs))
        x = x0
        for cross in self.crosses:
            x = cross(x0, x)
        return self.logit([x0], [x], inputs)


@MODELS.add("history_attention")
class HistoryAttention(Deep):
    """Attends from the shown item to the user's recent items (Zhou et al. 2018, with dot-product attention).

    Sequences share the table of a category; the attention of the last pass says which past events mattered.
    """

    def __init__(self, inputs: InputSpec, settings: Model, heads: int = 2) -> None:
        shared = [name for name in inputs.sequences if name in inputs.shares]
        if not shared:
            raise ValueError(
                "history_attention needs a feature of kind 'sequence' over a category; "
                "add one, or choose model dcnv2"
            )
        super().__init__(inputs, settings, attended=len(shared) * settings.embedding_dim)
        self.sequences = shared
        self.targets = {name: list(inputs.categories).index(inputs.shares[name]) for name in shared}
        self.attention = nn.ModuleDict(
            {slot(name): MultiHeadAttention(settings.embedding_dim, heads) for name in shared}
        )

    def forward(self, cat: Tensor, dense: Tensor, **extras: Tensor) -> Tensor:
        """Logits [N]."""
        inputs = {"cat": cat, "dense": dense, **extras}
        fields, numbers = self.input(**inputs)
        parts = [self.input.flat(fields, numbers)]
        for name in self.sequences:
            vectors, mask = self.input.lookup(name, extras[name])
            target = fields[:, self.targets[name] : self.targets[name] + 1]
            parts.append(self.attention[slot(name)](target, vectors, mask=mask).squeeze(1))
        return self.logit(parts, [], inputs)
