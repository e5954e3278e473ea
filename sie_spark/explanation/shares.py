"""Which layers and which fields carry the gradient of one row's loss. Torch only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sie_spark.models import Batch
from sie_spark.models.ctr import (
    DCNv2,
    Deep,
    DeepFM,
    DeepNetwork,
    FactorisationMachine,
    HistoryAttention,
    LogisticRegression,
)
from sie_spark.models.inputs import InputLayer, slot
from sie_spark.models.objective import BINARY, one_logit_a_row
from sie_spark.platform.inputs import InputSpec

GRADIENT: Literal["gradient"] = "gradient"
REMOVAL: Literal["removal"] = "removal"
# whose first layers are known; a user's class may derive from them and read its inputs in another order
KNOWN = (LogisticRegression, FactorisationMachine, DeepNetwork, DeepFM, DCNv2, HistoryAttention)


@dataclass(frozen=True)
class Shares:
    """What carries one row's gradient.

    Parameters
    ----------
    layers:
        name of a layer -> its share of the squared norm of ``d loss / d theta``; they add up to 1.
    fields:
        name of a model input -> its share of what fields account for; they add up to 1.
    of_gradient:
        share of the whole squared norm that the fields account for; the rest lies in hidden layers, in biases and
        in what first layers do with embeddings. None where ``how`` is ``removal``.
    how:
        ``gradient``: of an id the squared norm of the rows of embedding tables that it touched, of a number or a
        vector that of the columns of the first layers that it feeds; a row of a table that several fields of the
        sample touched counts for them alike. ``removal``, where the model is not one of this package and its first
        layers are not known: the squared change of the logit where the field is taken away (an unknown id, no
        items, a number at its mean).
    """

    layers: dict[str, float]
    fields: dict[str, float]
    of_gradient: float | None
    how: Literal["gradient", "removal"]


def shares_of(model: nn.Module, spec: InputSpec, row: Batch) -> Shares:
    """The shares of one row.

    Parameters
    ----------
    model:
        in eval mode; left as it was.
    spec:
        the inputs it takes.
    row:
        a batch of one row; its offset and weight play no part.
    """
    gradient = row_gradient(model, row)
    squares = {name: float(_values(value).double().square().sum()) for name, value in gradient.items()}
    layers: dict[str, float] = {}
    for name, square in squares.items():
        layer = name.rpartition(".")[0] or "the model itself"
        layers[layer] = layers.get(layer, 0.0) + square
    total = sum(squares.values())
    if type(model) not in KNOWN:
        return Shares(_normalised(layers), _normalised(removals(model, spec, row)), None, REMOVAL)
    fields = _fields(model, spec, row, gradient)
    carried = sum(fields.values())
    return Shares(
        _normalised(layers), _normalised(fields), min(carried / total, 1.0) if total else 0.0, GRADIENT
    )


def row_gradient(model: nn.Module, row: Batch) -> dict[str, Tensor]:
    """``d loss / d theta`` by name of parameter; of embedding tables sparse, so that only touched rows are held."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with _sparse_tables(model), torch.enable_grad():
        logit = one_logit_a_row(model(**row.inputs), row)
        plain = Batch(
            row.inputs, row.label, torch.zeros_like(row.label), torch.ones_like(row.label), row.sample_id
        )
        loss = BINARY.losses(logit, plain).sum()
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: value.coalesce() if value.is_sparse else value
        for name, value in zip(parameters, found, strict=True)
        if value is not None
    }


def removals(model: nn.Module, spec: InputSpec, row: Batch) -> dict[str, float]:
    """Field -> squared change of the logit where it is taken away: one forward pass over a row a field."""
    names = [*spec.categories, *spec.numbers, *spec.bags, *spec.sequences, *spec.vectors]
    inputs = {name: value.repeat(len(names) + 1, 1) for name, value in row.inputs.items()}
    for at, name in enumerate(names, start=1):
        if name in spec.categories:
            inputs["cat"][at, list(spec.categories).index(name)] = 0
        elif name in spec.numbers:
            inputs["dense"][at, spec.numbers.index(name)] = 0
        else:
            inputs[name][at] = 0
    with torch.inference_mode():
        logits = model(**inputs).double().reshape(len(names) + 1)
    moved = (logits[1:] - logits[0]).square()
    return dict(zip(names, moved.tolist(), strict=True))


def _fields(
    model: nn.Module, spec: InputSpec, row: Batch, gradient: Mapping[str, Tensor]
) -> dict[str, float]:
    names = (*spec.categories, *spec.bags, *spec.sequences, *spec.numbers, *spec.vectors)
    found = dict.fromkeys(names, 0.0)
    for name, layer in model.named_modules():
        if isinstance(layer, InputLayer):
            _add_tables(found, f"{name}." if name else "", layer, row, gradient)
    for weight, columns in _number_columns(model):
        value = gradient.get(weight)
        if value is None:
            continue
        by_column = value.double().square().sum(dim=0)
        for field, cut in columns:
            found[field] += float(by_column[cut].sum())
    return found


def _add_tables(
    found: dict[str, float], prefix: str, layer: InputLayer, row: Batch, gradient: Mapping[str, Tensor]
) -> None:
    """Squared norms of the embedding rows that each field touched."""
    for field in layer.pooled:
        table = gradient.get(f"{prefix}bags.{slot(field)}.weight")
        found[field] += 0.0 if table is None else float(_values(table).double().square().sum())
    table = gradient.get(f"{prefix}embedding.table.weight")
    if table is None:
        return
    touched: dict[int, list[str]] = {}
    for at, (field, start) in enumerate(layer.starts.items()):
        touched.setdefault(start + int(row.inputs["cat"][0, at]), []).append(field)
    for field, category in layer.spec.shares.items():
        ids = {int(i) for i in row.inputs[field][0] if i > 0}
        for one in ids:
            touched.setdefault(layer.starts[category] + one, []).append(field)
    for number, values in _rows(table):
        fields = touched.get(number, [])
        for field in fields:
            found[field] += float(values.double().square().sum()) / len(fields)


def _number_columns(model: nn.Module) -> Iterator[tuple[str, list[tuple[str, slice]]]]:
    """Weights [out, in] that read numbers or vectors as they are, each with (field, columns)."""
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, LogisticRegression):
            layer = module.input
            yield f"{prefix}output.weight", [*_numbers(layer, 0), *_pieces(layer, layer.numbers)]
        elif isinstance(module, Deep):
            layer = module.input
            weight, width, before = f"{prefix}deep.0.weight", module.deep_width, 0
            first = next(iter(module.deep), None)
            if isinstance(first, nn.Linear):
                width = first.in_features
            else:  # without hidden layers the last one reads the inputs, behind what stands beside them
                weight, before = f"{prefix}output.weight", module.output.in_features - width
            pieces = before + width - layer.width_of_pieces
            yield weight, [*_numbers(layer, before + layer.fields * layer.dim), *_pieces(layer, pieces)]
            if isinstance(module, DCNv2):
                crossed = len(module.crosses) > 0
                yield (
                    f"{prefix}crosses.0.linear.weight" if crossed else f"{prefix}output.weight",
                    _numbers(layer, layer.fields * layer.dim),
                )


def _numbers(layer: InputLayer, start: int) -> list[tuple[str, slice]]:
    found = []
    for name, size in [*((name, 1) for name in layer.spec.numbers), *layer.spec.vectors.items()]:
        found.append((name, slice(start, start + size)))
        start += size
    return found


def _pieces(layer: InputLayer, start: int) -> list[tuple[str, slice]]:
    if layer.cut is None:
        return []
    size = layer.cut.width // len(layer.spec.numbers)
    return [
        (name, slice(start + at * size, start + (at + 1) * size))
        for at, name in enumerate(layer.spec.numbers)
    ]


def _rows(table: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Rows of a table's gradient that are not zero."""
    if table.is_sparse:
        yield from zip(table.indices()[0].tolist(), table.values(), strict=True)
        return
    for number in table.abs().sum(dim=1).nonzero().flatten().tolist():
        yield number, table[number]


def _values(value: Tensor) -> Tensor:
    return value.values() if value.is_sparse else value


def _normalised(parts: Mapping[str, float]) -> dict[str, float]:
    total = sum(parts.values())
    return {name: value / total if total else 0.0 for name, value in parts.items()}


@contextmanager
def _sparse_tables(model: nn.Module) -> Iterator[None]:
    tables = [
        m
        for m in model.modules()
        if isinstance(m, nn.Embedding) or (isinstance(m, nn.EmbeddingBag) and m.mode != "max")
    ]
    tables = [m for m in tables if not m.sparse and not m.scale_grad_by_freq]
    try:
        for table in tables:
            table.sparse = True
        yield
    finally:
        for table in tables:
            table.sparse = False
