"""Every model the project offers, with every kind of column, against both oracles."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from helpers.slow_gradients import Problem, check_everything
from helpers.slow_layers import SlowBag
from sie_spark.models import MODELS, build_model
from sie_spark.platform.config import Model
from sie_spark.platform.inputs import InputSpec

SPEC = InputSpec(
    categories={"item": 6, "device": 3},
    numbers=("price", "rank"),
    bags={"filters": (7, 3)},
    sequences={"recent": (6, 4)},
    vectors={"image": 2},
    shares={"recent": "item"},
)
N = 6


def inputs() -> dict[str, torch.Tensor]:
    columns = {
        "cat": torch.stack([torch.randint(0, 6, (N,)), torch.randint(0, 3, (N,))], dim=1),
        "dense": torch.randn(N, 2),
        "filters": torch.randint(0, 7, (N, 3)),
        "recent": torch.randint(0, 6, (N, 4)),
        "image": torch.randn(N, 2),
    }
    columns["filters"][0] = 0
    columns["recent"][0] = 0
    columns["recent"][1] = 3  # one id in every position
    return columns


def every_model() -> list[str]:
    build_model(Model(name="lr"), SPEC, seed=0)
    return sorted(MODELS)


ALL = {"wide": True, "number_bins": 3, "normalise": True}


@pytest.mark.parametrize("parts", [{}, ALL], ids=["plain", "all parts"])
@pytest.mark.parametrize("name", every_model())
def test_every_model_is_exact(name: str, parts: dict[str, Any]) -> None:
    torch.manual_seed(len(name))
    model = build_model(Model(name=name, embedding_dim=4, hidden=[8, 5], **parts), SPEC, seed=1)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    twin = copy.deepcopy(model)
    for owner in twin.modules():
        for key, child in list(owner.named_children()):
            if isinstance(child, nn.EmbeddingBag):
                owner.register_module(key, SlowBag(child))
    labels, weights = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 1.0]), torch.ones(N)
    check_everything(Problem(model, inputs(), labels, weights, smooth_twin=twin))
