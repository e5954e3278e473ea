"""The form a model is served in: one float64 matrix in, click probabilities out, no package code needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sie_spark.models.objective import BINARY
from sie_spark.platform.inputs import InputSpec


class ServedModel(nn.Module):
    """Splits a flat row into the model's inputs and returns sigmoid(logit).

    Shape: float64 [N, W] -> float32 [N]; the W columns are those of :func:`flat_columns`. float64 holds every
    id below 2**53 exactly. The log-odds offset of training is not part of it: the logit is served as it is.
    """

    def __init__(self, model: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.model = model
        self.spec = spec

    def forward(self, rows: Tensor) -> Tensor:
        """Click probabilities [N]."""
        spec, inputs, start = self.spec, {}, 0
        parts = [
            ("cat", len(spec.categories), True),
            ("dense", len(spec.numbers), False),
            *((name, length, True) for name, (_, length) in {**spec.bags, **spec.sequences}.items()),
            *((name, length, False) for name, length in spec.vectors.items()),
        ]
        for name, width, integer in parts:
            piece = rows[:, start : start + width]
            inputs[name] = piece.to(torch.int64) if integer else piece.to(torch.float32)
            start += width
        return BINARY.predictions(self.model(**inputs))["label"]


def flat_columns(spec: InputSpec) -> list[str]:
    """Names of the served columns, in order."""
    names = [*spec.categories, *spec.numbers]
    for name, (_, length) in {**spec.bags, **spec.sequences}.items():
        names += [f"{name}[{index}]" for index in range(length)]
    for name, length in spec.vectors.items():
        names += [f"{name}[{index}]" for index in range(length)]
    return names


def flat_rows(inputs: dict[str, Tensor]) -> Tensor:
    """The inputs of a batch as one float64 matrix [N, W]."""
    return torch.cat([value.to(torch.float64) for value in inputs.values()], dim=1)
