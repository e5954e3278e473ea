"""From an encoded row to what every model starts with: field vectors [N, F, d], numbers [N, D] and their pieces."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sie_spark.models.layers import FieldEmbedding, PiecewiseLinear
from sie_spark.platform.errors import ModelError
from sie_spark.platform.inputs import InputSpec


class InputLayer(nn.Module):
    """Embeds categories, bags and (mean-pooled) sequences; passes numbers and vectors on.

    Parameters
    ----------
    spec:
        the encoder's promise.
    dim:
        embedding width d.
    pool_sequences:
        False leaves sequences to the model (attention).
    bins:
        pieces that every number is cut into for :meth:`pieces`; 0 for none.

    Shapes: ``(cat, dense, **extras)`` -> (float [N, F', d], float [N, D']) with ``F' = fields`` and
    ``D' = numbers``, two attributes.
    """

    def __init__(self, spec: InputSpec, dim: int, *, pool_sequences: bool = True, bins: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.dim = dim
        self.cut = PiecewiseLinear(len(spec.numbers), bins) if bins and spec.numbers else None
        self.embedding = FieldEmbedding(list(spec.categories.values()), dim) if spec.categories else None
        pooled = dict(spec.bags) | (spec.sequences if pool_sequences else {})
        own = {name: ids for name, (ids, _) in pooled.items() if name not in spec.shares}
        self.bags = nn.ModuleDict(
            {slot(name): nn.EmbeddingBag(ids, dim, mode="mean", padding_idx=0) for name, ids in own.items()}
        )
        self.pooled = list(own)
        self.shared = [name for name in pooled if name in spec.shares]
        starts, total = {}, 0
        for name, size in spec.categories.items():
            starts[name], total = total, total + size
        self.starts = starts
        self.fields = len(spec.categories) + len(pooled)
        self.numbers = len(spec.numbers) + sum(spec.vectors.values())
        self.reset()

    @property
    def width(self) -> int:
        """Length of the flat vector [fields * d + numbers]."""
        return self.fields * self.dim + self.numbers

    @property
    def width_of_pieces(self) -> int:
        """Length of what :meth:`pieces` gives."""
        return self.cut.width if self.cut is not None else 0

    def pieces(self, dense: Tensor) -> Tensor:
        """The numbers [N, D] cut into pieces, [N, width_of_pieces]."""
        return self.cut(dense) if self.cut is not None else dense.new_zeros(dense.shape[0], 0)

    def reset(self) -> None:
        """Small embeddings: a new id should start near 'no opinion', not at a unit normal."""
        tables = [module for module in self.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
        for table in tables:
            nn.init.normal_(table.weight, std=0.01)
            if table.padding_idx is not None:
                with torch.no_grad():
                    table.weight[table.padding_idx].zero_()

    def start(self, vectors: Mapping[str, Tensor]) -> None:
        """Begin categories at given vectors (float [ids, k] each): the first min(k, d) columns are copied.

        Raises
        ------
        ModelError
            when a category has another number of ids than its vectors.
        """
        for name, values in vectors.items():
            if self.embedding is None or name not in self.starts or self.dim == 1:
                continue  # a width of one holds first-order weights, not vectors
            size, width = self.spec.categories[name], min(self.dim, values.shape[1])
            if values.shape[0] != size:
                raise ModelError(
                    f"start vectors of '{name}' are for {values.shape[0]} ids, the encoder has {size}",
                    remedy="run 'sie encode' again: encoder and start vectors are made together",
                )
            with torch.no_grad():
                at = self.starts[name]
                self.embedding.table.weight[at : at + size, :width] = values[:, :width]

    def lookup(self, name: str, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [N, L, d] and mask [N, L] of a sequence that shares a category's table; id 0 is padding."""
        assert self.embedding is not None
        return self.embedding.table(ids + self.starts[self.spec.shares[name]]), ids > 0

    def forward(self, cat: Tensor, dense: Tensor, **extras: Tensor) -> tuple[Tensor, Tensor]:
        """Field vectors [N, F', d] and numbers [N, D']."""
        parts = [self.embedding(cat)] if self.embedding is not None else []
        for name in self.pooled:
            parts.append(self.bags[slot(name)](extras[name]).unsqueeze(1))
        for name in self.shared:
            vectors, mask = self.lookup(name, extras[name])
            share = mask.to(vectors.dtype) / mask.sum(1, keepdim=True).clamp(min=1)
            parts.append((vectors * share.unsqueeze(-1)).sum(1, keepdim=True))
        fields = torch.cat(parts, dim=1) if parts else dense.new_zeros(dense.shape[0], 0, self.dim)
        numbers = [dense, *(extras[name] for name in self.spec.vectors)]
        return fields, torch.cat(numbers, dim=1)

    def flat(self, fields: Tensor, numbers: Tensor) -> Tensor:
        """Both as one vector [N, width]."""
        return torch.cat([fields.flatten(1), numbers], dim=1)


def slot(name: str) -> str:
    """A feature's name as a key of a ModuleDict, which has names like 'items' and 'type' for itself."""
    return f"{name}-" if hasattr(nn.ModuleDict(), name) else name  # no feature's name holds a hyphen


def start_embeddings(model: nn.Module, vectors: Mapping[str, Tensor]) -> None:
    """Begin a model's embedding tables at start vectors (category -> float [ids, k]).

    Raises
    ------
    ModelError
        when no layer of the model is an :class:`InputLayer` wide enough to hold vectors.
    """
    layers = [module for module in model.modules() if isinstance(module, InputLayer) and module.dim > 1]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no InputLayer with embeddings for dataset.start_vectors",
            remedy="build the model on sie_spark.models.inputs.InputLayer, or leave out dataset.start_vectors",
        )
    for layer in layers:
        layer.start(vectors)


def find_edges(model: nn.Module, dense: Tensor) -> None:
    """Cut the numbers of a fresh model at the quantiles of some rows, float [N, D]."""
    for module in model.modules():
        if isinstance(module, PiecewiseLinear):
            module.find_edges(dense)
