"""Curvature products and factors against matrices formed entry by entry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call

from sie_spark.gradients import (
    EKFAC,
    KFAC,
    Engine,
    GaussNewton,
    GradientError,
    MergeError,
    UnsupportedLayer,
    conjugate_gradient,
    fisher_loss,
    gnvp,
    gradient,
    hvp,
)
from sie_spark.models.layers import Bias, CrossV1, FieldEmbedding

N = 7


class Small(nn.Module):
    def __init__(self, tasks: int = 1, *, sparse: bool = False) -> None:
        super().__init__()
        self.table = FieldEmbedding([3, 2], 2, sparse=sparse)
        self.cross, self.norm = CrossV1(4), nn.LayerNorm(4)
        self.linear, self.bias = nn.Linear(4, tasks), Bias(tasks)

    def forward(self, cat: Tensor) -> Tensor:
        x = self.table(cat).flatten(1)
        out = self.bias(self.linear(torch.tanh(self.norm(self.cross(x, x)))))
        return out.squeeze(1) if out.shape[1] == 1 else out


def setting(tasks: int = 1, *, sparse: bool = False):
    torch.manual_seed(tasks)
    model = Small(tasks, sparse=sparse).double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.7)
    cat = torch.stack([torch.randint(0, 3, (N,)), torch.randint(0, 2, (N,))], dim=1)
    y = (
        torch.randint(0, 2, (N, tasks)).double().squeeze(1)
        if tasks == 1
        else torch.randint(0, 2, (N, tasks)).double()
    )
    return (
        model,
        {"cat": cat},
        lambda o: nn.functional.binary_cross_entropy_with_logits(o, y, reduction="none"),
    )


def flat(vector: dict[str, Tensor], model: nn.Module) -> Tensor:
    return torch.cat([vector[name].flatten() for name, _ in model.named_parameters()])


def unflat(entries: Tensor, model: nn.Module) -> dict[str, Tensor]:
    pieces = entries.split([p.numel() for p in model.parameters()])
    return {name: piece.view_as(p) for (name, p), piece in zip(model.named_parameters(), pieces, strict=True)}


def value(model: nn.Module, inputs, entries: Tensor) -> Tensor:
    return functional_call(model, unflat(entries, model), (), inputs)


def start(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gauss_newton_matrix(model, inputs, loss) -> Tensor:
    theta = start(model)
    slopes = jacobian(lambda e: value(model, inputs, e).flatten(), theta)
    out = value(model, inputs, theta)
    h = hessian(lambda flat_out: loss(flat_out.view_as(out)).sum(), out.flatten())
    return slopes.T @ h @ slopes


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("tasks", [1, 3])
def test_products_equal_the_matrices(tasks: int, sparse: bool) -> None:
    model, inputs, loss = setting(tasks, sparse=sparse)
    model.train()
    v = unflat(torch.randn(start(model).shape, dtype=torch.float64), model)
    model.table.table.sparse = False  # the oracle differentiates twice through the lookup
    exact = hessian(lambda e: loss(value(model, inputs, e)).sum(), start(model)) @ flat(v, model)
    g = gauss_newton_matrix(model, inputs, loss)
    slope = jacobian(lambda e: loss(value(model, inputs, e)).sum(), start(model))
    model.table.table.sparse = sparse
    torch.testing.assert_close(flat(hvp(model, inputs, loss, v), model), exact)
    torch.testing.assert_close(flat(gnvp(model, inputs, loss, v), model), g @ flat(v, model))
    torch.testing.assert_close(flat(gradient(model, inputs, loss), model), slope)
    assert model.training and model.table.table.sparse is sparse
    assert all(p.grad is None for p in model.parameters())


def test_products_of_partial_vectors_and_their_errors() -> None:
    model, inputs, loss = setting()
    v = {"linear.weight": torch.randn(1, 4, dtype=torch.float64)}
    full = {name: v.get(name, torch.zeros_like(p)) for name, p in model.named_parameters()}
    for product in (hvp, gnvp):
        partial = product(model, inputs, loss, v)
        torch.testing.assert_close(flat(partial, model), flat(product(model, inputs, loss, full), model))
        with pytest.raises(GradientError, match=r"linear\.weight.*\[2\]"):
            product(model, inputs, loss, {"linear.weight": torch.ones(2)})


def test_a_linear_model_and_loss_have_no_curvature() -> None:
    model = nn.Linear(3, 1).double()
    x, v = torch.randn(4, 3).double(), {"weight": torch.ones(1, 3).double()}
    for product in (hvp, gnvp):
        result = product(model, {"input": x}, lambda o: o[:, 0] * 2, v)
        assert not any(value.any() for value in result.values())


def test_a_pooled_lookup_has_a_gauss_newton_product_and_says_it_has_no_hessian() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(4, 2, mode="sum"), nn.Linear(2, 1)).double()
    ids = torch.tensor([[0, 0, 1], [3, 2, 2]])
    v = {"0.weight": torch.randn(4, 2).double()}
    with pytest.raises(UnsupportedLayer, match="no second derivative"):
        hvp(model, {"input": ids}, lambda o: o[:, 0].square(), v)
    jacobian = torch.zeros(2, 4, 2, dtype=torch.float64)
    for row in range(2):
        for i in ids[row]:
            jacobian[row, i] += model[1].weight[0].detach()
    along = (jacobian * v["0.weight"]).sum(dim=(1, 2))
    expected = 2 * (along[:, None, None] * jacobian).sum(dim=0)
    product = gnvp(model, {"input": ids}, lambda o: o[:, 0].square(), v)
    torch.testing.assert_close(product["0.weight"], expected)


def test_conjugate_gradient_solves_and_reports() -> None:
    model, inputs, loss = setting(2)
    operator = GaussNewton(model, [(inputs, loss)])
    b = gradient(model, inputs, loss)
    solution = conjugate_gradient(operator, b, damping=0.1, tolerance=1e-10, max_iterations=200)
    matrix = gauss_newton_matrix(model, inputs, loss) / N
    exact = torch.linalg.solve(matrix + 0.1 * torch.eye(len(matrix), dtype=torch.float64), flat(b, model))
    torch.testing.assert_close(flat(solution.x, model), exact, rtol=1e-6, atol=1e-8)
    report = solution.report
    assert report.converged and report.reason == "tolerance" and report.residuals[-1] <= 1e-10
    assert report.iterations == len(report.residuals) - 1 and "converged" in str(report)
    short = conjugate_gradient(operator, b, damping=1e-4, tolerance=1e-12, max_iterations=2).report
    assert not short.converged and short.reason == "iterations" and "NOT converged" in str(short)


def test_conjugate_gradient_refuses_what_it_cannot_solve() -> None:
    b = {"w": torch.ones(3)}
    bent = conjugate_gradient(lambda v: {"w": -v["w"]}, b, damping=0.0)
    assert bent.report.reason == "negative curvature" and not bent.report.converged
    assert conjugate_gradient(lambda v: v, {"w": torch.zeros(3)}, damping=0.0).report.converged
    for bad, damping in ((b, -1.0), ({"w": torch.tensor([torch.nan])}, 0.1), ({}, 0.1)):
        with pytest.raises(GradientError):
            conjugate_gradient(lambda v: v, bad, damping=damping)


def test_gauss_newton_of_batches_is_the_mean_over_samples() -> None:
    model, inputs, _ = setting()
    y = torch.randint(0, 2, (N,)).double()

    def part(rows: slice):
        def loss(o: Tensor) -> Tensor:
            return nn.functional.binary_cross_entropy_with_logits(o, y[rows], reduction="none")

        return {"cat": inputs["cat"][rows]}, loss

    v = unflat(torch.randn(start(model).shape, dtype=torch.float64), model)
    whole = GaussNewton(model, [part(slice(None))])(v)
    split = GaussNewton(model, lambda: iter([part(slice(0, 3)), part(slice(3, None))]))(v)
    torch.testing.assert_close(flat(split, model), flat(whole, model))
    with pytest.raises(GradientError, match="no batch"):
        GaussNewton(model, [])(v)


def looped(model, inputs, loss) -> dict[str, Tensor]:
    """Per-sample gradients [N, ...] of the summed task losses, from the Jacobian of the losses."""
    rows = jacobian(lambda e: loss(value(model, inputs, e)).reshape(N, -1).sum(dim=1), start(model))
    each = [unflat(row, model) for row in rows]
    return {name: torch.stack([g[name] for g in each]) for name in each[0]}


@pytest.mark.parametrize("tasks", [1, 2])
def test_kfac_factors_equal_their_definition(tasks: int) -> None:
    model, inputs, loss = setting(tasks)
    kfac = KFAC()
    Engine(model)(inputs, loss, kfac)
    state, g = kfac.state(), looped(model, inputs, loss)
    hidden = torch.tanh(model.norm(model.cross(*[model.table(inputs["cat"]).flatten(1)] * 2))).detach()
    torch.testing.assert_close(state["right/linear.weight"], hidden.T @ hidden)
    delta = g["linear.bias"]
    torch.testing.assert_close(state["left/linear.weight"], delta.T @ delta)
    rows = (inputs["cat"] + torch.tensor([0, 3])).flatten()
    counts = torch.bincount(rows, minlength=5).double()
    torch.testing.assert_close(state["left/table.table.weight"], counts)
    # A vector's factor is its exact second moment.
    for name in ("norm.weight", "norm.bias", "cross.bias", "bias.bias"):
        torch.testing.assert_close(state[f"right/{name}"], g[name].T @ g[name])
        assert float(state[f"left/{name}"]) == N


def test_kfac_is_exact_where_the_fisher_factorises() -> None:
    model, inputs, loss = setting()
    kfac, name = KFAC(), "norm.weight"
    Engine(model)(inputs, loss, kfac)
    g = looped(model, inputs, loss)[name]
    fisher = g.T @ g / N + 0.05 * torch.eye(4, dtype=torch.float64)
    v = torch.randn(4, dtype=torch.float64)
    solved = kfac.basis().solve({name: v}, damping=0.05)[name]
    torch.testing.assert_close(solved, torch.linalg.solve(fisher, v))


class Sequences(nn.Module):
    """A table with repeats in a sample, a sequence layer, and a table tied to its output matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.out = nn.Embedding(4, 3, padding_idx=0), nn.Linear(3, 3), nn.Linear(3, 4)
        self.tied = nn.Embedding(4, 3)
        self.out.weight = self.tied.weight

    def forward(self, cat: Tensor) -> Tensor:
        x = torch.tanh(self.first(self.table(cat) + self.tied(cat.flip(1))))
        return torch.tanh(self.out(x)).sum(dim=(1, 2))


def sequences():
    torch.manual_seed(3)
    model = Sequences().double()
    cat, y = torch.randint(0, 4, (N, 5)), torch.randint(0, 2, (N,)).double()
    return (
        model,
        {"cat": cat},
        lambda o: nn.functional.binary_cross_entropy_with_logits(o, y, reduction="none"),
    )


@pytest.mark.parametrize("build", [lambda: setting(2), sequences])
def test_ekfac_eigenvalues_are_exact_second_moments(build) -> None:
    model, inputs, loss = build()
    kfac = KFAC()
    Engine(model)(inputs, loss, kfac)
    basis = kfac.basis()
    ekfac = EKFAC(basis)
    Engine(model)(inputs, loss, ekfac)
    corrected = ekfac.basis()
    for name, g in padded(model, looped(model, inputs, loss), inputs).items():
        matrices = g if g.dim() == 3 else g.unsqueeze(1)
        p, q = matrices.shape[1:]
        left = basis.tensors.get(f"left/{name}", torch.eye(p, dtype=torch.float64))
        right = basis.tensors.get(f"right/{name}", torch.eye(q, dtype=torch.float64))
        expected = (left.T @ matrices @ right).square().mean(dim=0)
        torch.testing.assert_close(corrected.tensors[f"values/{name}"], expected)


def padded(model, g, inputs) -> dict[str, Tensor]:
    """What forward-mode and functional calls give, minus the padding row, which no gradient reaches."""
    if isinstance(model, Sequences):
        g["table.weight"][:, 0] = 0
    return g


def test_factors_and_eigenvalues_merge_and_travel() -> None:
    model, inputs, _ = setting()
    y = torch.randint(0, 2, (N,)).double()

    def accumulate(quantity, rows: slice):
        Engine(model)(
            {"cat": inputs["cat"][rows]},
            lambda o: nn.functional.binary_cross_entropy_with_logits(o, y[rows], reduction="none"),
            quantity,
        )
        return quantity

    whole = accumulate(KFAC(), slice(None))
    one, two = accumulate(KFAC(), slice(0, 3)), accumulate(KFAC(), slice(3, None))
    merged = KFAC.from_state(one.state()) + KFAC.from_state(two.state())
    assert merged.state().keys() == whole.state().keys()
    for key, expected in whole.state().items():
        torch.testing.assert_close(merged.state()[key], expected)
    basis = whole.basis()
    first, second = accumulate(EKFAC(basis), slice(0, 3)), accumulate(EKFAC(basis), slice(3, None))
    both = EKFAC.from_state(basis, first.state()) + second
    for key, expected in accumulate(EKFAC(basis), slice(None)).state().items():
        torch.testing.assert_close(both.state()[key], expected)
    with pytest.raises(MergeError):
        first + EKFAC(one.basis())
    with pytest.raises(MergeError):
        KFAC.from_state({"left/w": torch.ones(2)}) + KFAC.from_state({"left/w": torch.ones(3)})


def test_curvature_errors_say_what_to_do() -> None:
    for empty in (KFAC(), EKFAC(KFAC.from_state({"count": torch.tensor(1.0)}).basis())):
        with pytest.raises(GradientError, match="no data"):
            empty.basis()
    basis = KFAC.from_state({"count": torch.tensor(1.0)}).basis()
    with pytest.raises(GradientError, match="damping"):
        basis.solve({}, damping=0.0)
    with pytest.raises(GradientError, match="'w'"):
        basis.solve({"w": torch.ones(1)}, damping=0.1)


def test_long_sides_keep_a_diagonal() -> None:
    model, inputs, loss = setting()
    kfac = KFAC(limit=3)
    Engine(model)(inputs, loss, kfac)
    full = KFAC()
    Engine(model)(inputs, loss, full)
    assert kfac.state()["right/linear.weight"].shape == (4,)
    diagonal = full.state()["right/linear.weight"].diagonal()
    torch.testing.assert_close(kfac.state()["right/linear.weight"], diagonal)
    ekfac = EKFAC(kfac.basis())
    Engine(model)(inputs, loss, ekfac)
    g = looped(model, inputs, loss)["linear.weight"]
    torch.testing.assert_close(ekfac.basis().tensors["values/linear.weight"], g.square().mean(dim=0))


def test_the_fisher_loss_draws_labels_from_the_model() -> None:
    logit = torch.full((20_000,), 1.0, requires_grad=True)
    loss = fisher_loss(torch.Generator().manual_seed(0))(logit)
    (delta,) = torch.autograd.grad(loss.sum(), logit)
    p = torch.sigmoid(torch.tensor(1.0))
    assert abs(float(delta.mean())) < 4 * float((p * (1 - p) / 20_000).sqrt())
    torch.testing.assert_close(delta.square().mean(), p * (1 - p), rtol=0.03, atol=0)
