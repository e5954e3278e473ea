"""Two independent, slow derivations of a per-sample gradient: one-sample backwards, and forward mode.

Neither uses anything of the engine. ``Problem`` is a model with a batch and a per-sample loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from sie_spark.gradients import Dots, Engine, Norms, Projections

Inputs = Mapping[str, Tensor]


def rows_of(inputs: Inputs, rows: Tensor) -> Inputs:
    return {name: x[rows] for name, x in inputs.items()}


@dataclass(repr=False)
class Problem:
    model: nn.Module
    inputs: Inputs
    labels: Tensor
    # Weights of zero make samples of zero gradient.
    weights: Tensor
    cut: Callable[[Inputs, Tensor], Inputs] = rows_of
    materialise: tuple[str, ...] = ()
    block: int | None = 1024
    # Forward mode knows no padding_idx, nor embedding_bag at all: then this model, equal in value, stands in.
    smooth_twin: nn.Module | None = None
    vectors: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Values that both precisions hold, so that float32 answers are compared for their sums alone.
        self.model.float().double().eval()
        self.inputs = {k: x.float().double() if x.is_floating_point() else x for k, x in self.inputs.items()}
        generator = torch.Generator().manual_seed(len(self.labels))
        for name in ("a", "b"):
            self.vectors[name] = {
                key: torch.randn(p.shape, generator=generator).double() for key, p in self.parameters.items()
            }

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def loss(self, rows: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        y, w = (self.labels, self.weights) if rows is None else (self.labels[rows], self.weights[rows])

        def value(output: Tensor) -> Tensor:
            y_, w_ = y.to(output.dtype), w.to(output.dtype)
            # Bounded logits: at saturation p - y itself cancels, in the oracles as much as in the engine.
            logit = 3 * nn.functional.softsign(output)
            return w_ * nn.functional.binary_cross_entropy_with_logits(logit, y_, reduction="none")

        return value

    @property
    def size(self) -> int:
        return len(self.labels)


def gradients_by_loop(problem: Problem) -> dict[str, Tensor]:
    """[N, *shape] of every parameter: one backward a sample, batch of one, parameters' own ``.grad``."""
    parameters = problem.parameters
    found: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for i in range(problem.size):
        row = torch.tensor([i])
        problem.model.zero_grad(set_to_none=True)
        problem.loss(row)(problem.model(**problem.cut(problem.inputs, row))).sum().backward()
        for name, p in parameters.items():
            grad = torch.zeros_like(p) if p.grad is None else p.grad
            found[name].append(grad.to_dense().detach().clone() if grad.is_sparse else grad.detach().clone())
    problem.model.zero_grad(set_to_none=True)
    return {name: torch.stack(rows) for name, rows in found.items()}


def dots_by_forward_mode(problem: Problem, vector: Mapping[str, Tensor]) -> Tensor:
    """[N]: the derivative of every sample's loss along ``vector``."""
    model = problem.smooth_twin.double().eval() if problem.smooth_twin is not None else problem.model

    def losses(parameters: dict[str, Tensor]) -> Tensor:
        return problem.loss()(functional_call(model, parameters, (), dict(problem.inputs)))

    primal = {name: p.detach() for name, p in problem.parameters.items()}
    with torch.no_grad():
        return jvp(losses, (primal,), (dict(vector),))[1]


def cancellation_bound(problem: Problem) -> Tensor:
    """``(sum_t |delta_t| (|x_t| + 1))^2`` a sample, over all calls of layers that own parameters, [N]."""
    seen: list[tuple[Tensor, Tensor]] = []

    def remember(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if not args:  # the model itself, owner of raw parameters
            return
        output.retain_grad()
        x = args[-1].detach().double() if args[0].is_floating_point() else torch.ones(len(output), 1)
        seen.append((x.reshape(len(x), -1), output))

    handles = [m.register_forward_hook(remember) for m in problem.model.modules() if m._parameters]
    problem.loss()(problem.model(**problem.inputs)).sum().backward()
    for handle in handles:
        handle.remove()
    problem.model.zero_grad(set_to_none=True)
    total = torch.zeros(problem.size, dtype=torch.float64)
    for x, output in seen:
        if output.grad is not None and len(output) == problem.size:
            width = output.shape[-1] if output.dim() > 1 else 1
            delta = output.grad.double().reshape(problem.size, -1, width).norm(dim=2).sum(dim=1)
            total += delta * (x.norm(dim=1) + width**0.5 + 1)
    return total.square()


def close(actual: Tensor, expected: Tensor, scale: Tensor, relative: float) -> None:
    """|actual - expected| <= relative * scale, elementwise, with room for exact zeros only at 1e-30."""
    gap = (actual.double() - expected.double()).abs()
    assert bool((gap <= relative * scale.double().abs() + 1e-30).all()), (actual, expected, gap / scale)


def squared(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: g.flatten(1).square().sum(dim=1) for name, g in gradients.items()}


def inner(gradients: Mapping[str, Tensor], vector: Mapping[str, Tensor]) -> Tensor:
    return sum((g * vector[name]).flatten(1).sum(dim=1) for name, g in gradients.items())


def check_everything(problem: Problem) -> None:
    """The engine against both oracles in float64, then in float32, permuted and split."""
    each = Norms(groups=lambda name: name)
    quantities = (Norms(), each, Dots(problem.vectors), Projections(rank=2, seed=3))
    engine = Engine(problem.model, materialise=problem.materialise, block=problem.block)
    result = engine(problem.inputs, problem.loss(), *quantities)
    looped = gradients_by_loop(problem)
    by_name = squared(looped)
    total = sum(by_name.values())
    assert set(each.names(engine.shapes)) == set(by_name)
    for name, found in zip(each.names(engine.shapes), result[each.key].unbind(dim=1), strict=True):
        # Relative to the parameter's own norm, floored by rounding of the whole gradient.
        close(found, by_name[name], by_name[name] + 1e-6 * total, 1e-10)
    close(result["squared_norm"], total, total, 1e-10)
    for vector, found in zip(problem.vectors.values(), result["dots"].unbind(dim=1), strict=True):
        length = total.sqrt() * sum(v.square().sum() for v in vector.values()).sqrt()
        close(found, inner(looped, vector), length, 1e-10)
        close(found, dots_by_forward_mode(problem, vector), length, 1e-10)
    if problem.size > 1:
        _check_batching(problem, engine, quantities, result)
    _check_float32(problem, total, looped)


def _check_batching(problem, engine, quantities, result) -> None:
    n = problem.size
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    for rows in (order, torch.arange(n // 2), torch.arange(n // 2, n)):
        part = engine(problem.cut(problem.inputs, rows), problem.loss(rows), *quantities)
        expected = result["squared_norm"][rows]
        close(part["squared_norm"], expected, expected, 1e-10)
        scale = ((expected.sqrt() + 1e-300) * 100).unsqueeze(1)
        for key in ("dots", "projections"):
            close(part[key], result[key][rows], scale, 1e-10)
    if problem.block is not None:
        blocked = Engine(problem.model, materialise=problem.materialise, block=2)
        part = blocked(problem.inputs, problem.loss(), *quantities)
        close(part["squared_norm"], result["squared_norm"], result["squared_norm"], 1e-10)


def _check_float32(problem: Problem, total: Tensor, looped: Mapping[str, Tensor]) -> None:
    bound = cancellation_bound(problem)
    problem.model.float()
    inputs = {name: x.float() if x.is_floating_point() else x for name, x in problem.inputs.items()}
    engine = Engine(problem.model, materialise=problem.materialise, block=problem.block)
    result = engine(inputs, problem.loss(), Norms(), Dots(problem.vectors))
    problem.model.double()
    assert result["squared_norm"].dtype == torch.float32
    assert bool((result["squared_norm"] >= 0).all())
    close(result["squared_norm"], total, torch.maximum(bound, total), 1e-5)
    for vector, found in zip(problem.vectors.values(), result["dots"].unbind(dim=1), strict=True):
        length = total.sqrt() * sum(v.square().sum() for v in vector.values()).sqrt()
        close(found, inner(looped, vector), length + 1e-30, 1e-5)
