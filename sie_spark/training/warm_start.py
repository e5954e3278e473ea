"""Fits that begin with another model's weights: the same one, or an older one whose ids are fewer or others.

Embedding rows are matched by the values that their ids stand for; a value that the older model did not know begins
as in a fresh model. Everything else must have the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sie_spark.features.encoder import Encoder
from sie_spark.features.identifiers import Category, IdList
from sie_spark.features.vocabulary import Vocabulary
from sie_spark.models.inputs import InputLayer, slot
from sie_spark.models.store import load_model
from sie_spark.platform.errors import ModelError

if TYPE_CHECKING:
    from sie_spark.platform.inputs import InputSpec

MEND = "start from a model with the same model settings and features, or leave arms.NAME.start out"


@dataclass(frozen=True)
class Start:
    """The model that a fit begins with, as it travels to ranks.

    Parameters
    ----------
    uri:
        of its ``model.pt``.
    encoder:
        of the encoder whose ids it knows; None where they are those of the rows.
    """

    uri: str
    encoder: str | None = None


def begin_with(model: nn.Module, spec: InputSpec, start: Start, encoder: str) -> None:
    """Give a fresh model another one's weights.

    Parameters
    ----------
    spec, encoder:
        of the rows that the model is to be fitted on: their inputs, and path or URI of their encoder.

    Raises
    ------
    ModelError
        for a parameter of another shape that is no embedding table, or a feature whose ids cannot be matched.
    """
    older, known = load_model(start.uri)
    state = older.state_dict()
    if start.encoder is not None:
        state |= _grown(model, older, _matches(Encoder.load(start.encoder), Encoder.load(encoder)))
    elif known != spec:
        raise ModelError(f"{start.uri} takes other inputs than the rows have", remedy=MEND)
    for name, value in model.state_dict().items():
        if name not in state or state[name].shape != value.shape:
            had = list(state[name].shape) if name in state else "no such parameter"
            raise ModelError(
                f"{start.uri} does not fit: '{name}' is {list(value.shape)} here, {had} there", remedy=MEND
            )
    model.load_state_dict({name: state[name] for name in model.state_dict()})


def _matches(older: Encoder, newer: Encoder) -> dict[str, Tensor]:
    """Feature -> for each id of the newer encoder the id of the same value in the older one, or -1; int64 [ids]."""
    before = {feature.name: feature for feature in older.features}
    found = {}
    for feature in newer.features:
        if not isinstance(feature, Category | IdList):
            continue
        other = before.get(feature.name)
        if not isinstance(other, Category | IdList):
            continue
        ids, old = feature.ids, other.ids
        if isinstance(ids, Vocabulary) and isinstance(old, Vocabulary):
            at = torch.full((ids.size,), -1)
            at[0] = 0
            for value, number in ids.known.items():
                at[number] = old.id(value) or -1
            found[feature.name] = at
        elif ids == old:  # hashed, into as many ids
            found[feature.name] = torch.arange(ids.size)
        else:
            raise ModelError(
                f"feature '{feature.name}' has hashed ids in one of the encoders, or another number of them",
                remedy=MEND,
            )
    return found


def _grown(model: nn.Module, older: nn.Module, matches: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameter -> embedding table of the new model, with the rows that the older one knows."""
    before, grown = dict(older.named_modules()), {}
    for path, layer in model.named_modules():
        other = before.get(path)
        if not isinstance(layer, InputLayer) or not isinstance(other, InputLayer):
            continue
        prefix = f"{path}." if path else ""
        if layer.embedding is not None and other.embedding is not None:
            table, source = (
                layer.embedding.table.weight.detach().clone(),
                other.embedding.table.weight.detach(),
            )
            for name, first in layer.starts.items():
                if name in matches and name in other.starts:
                    size = layer.spec.categories[name]
                    _copy(table[first : first + size], source[other.starts[name] :], matches[name])
            grown[f"{prefix}embedding.table.weight"] = table
            grown[f"{prefix}embedding.offsets"] = layer.embedding.offsets
        for name in layer.pooled:
            if name in matches and slot(name) in other.bags:
                table = layer.bags[slot(name)].weight.detach().clone()  # type: ignore[operator]
                _copy(table, other.bags[slot(name)].weight.detach(), matches[name])  # type: ignore[operator]
                grown[f"{prefix}bags.{slot(name)}.weight"] = table
    return grown


def _copy(table: Tensor, source: Tensor, at: Tensor) -> None:
    """Rows of ``source`` into the rows of ``table`` whose values it knows; the others stay."""
    if table.shape[1] == source.shape[1]:
        there = at >= 0
        table[there] = source[at[there]]
