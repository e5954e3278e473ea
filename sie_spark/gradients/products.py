"""Curvature by products with vectors: exact, without a matrix, for any model the engine accepts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sie_spark.gradients.capture import evaluating
from sie_spark.gradients.engine import Engine, Inputs, Loss
from sie_spark.gradients.errors import GradientError, UnsupportedLayer
from sie_spark.gradients.quantities import Dots

__all__ = ["GaussNewton", "gnvp", "gradient", "hvp"]

Vector = dict[str, Tensor]


def gradient(model: nn.Module, inputs: Inputs, loss: Loss) -> Vector:
    """Gradient of the summed loss in eval mode, dense, by name of trainable parameter: the v of ``Dots``."""
    parameters = _trainable(model)
    with torch.enable_grad(), evaluating(model):
        total = loss(model(**inputs)).sum()
        found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return _dense(parameters, found)


def hvp(model: nn.Module, inputs: Inputs, loss: Loss, vector: Mapping[str, Tensor]) -> Vector:
    """``H v``, H the Hessian of the summed loss in eval mode, by double backward (Pearlmutter 1994).

    Parameters
    ----------
    model, inputs, loss:
        as for :func:`~sie_spark.gradients.per_sample`.
    vector:
        by parameter name, of the parameters' shapes; names left out count as zeros.

    Returns
    -------
    dict
        dense tensors, one a trainable parameter.

    Raises
    ------
    UnsupportedLayer
        when an operation has no second derivative in torch (``nn.EmbeddingBag``).
    GradientError
        when ``vector`` names an unknown parameter or has another shape.
    """
    parameters = _checked(model, vector)
    values = list(parameters.values())
    with torch.enable_grad(), evaluating(model), _dense_tables(model):
        first = torch.autograd.grad(loss(model(**inputs)).sum(), values, create_graph=True, allow_unused=True)
        terms = [
            (g * vector[name]).sum()
            for name, g in zip(parameters, first, strict=True)
            if g is not None and g.requires_grad and name in vector
        ]
        if not terms:
            return {name: torch.zeros_like(p) for name, p in parameters.items()}
        try:
            second = torch.autograd.grad(torch.stack(terms).sum(), values, allow_unused=True)
        except NotImplementedError as error:
            raise UnsupportedLayer(
                f"the model has no second derivative: {error}",
                remedy="use gnvp (the Gauss-Newton product needs first derivatives only)",
            ) from error
    return _dense(parameters, second)


def gnvp(
    model: nn.Module,
    inputs: Inputs,
    loss: Loss,
    vector: Mapping[str, Tensor],
    *,
    materialise: Collection[str] = (),
) -> Vector:
    """``J^T H_out J v`` of the summed loss: the Gauss-Newton product (Schraudolph 2002).

    ``J v`` is a per-sample dot product of the outputs' gradients with v, so it comes from the same
    rules as every other quantity; H_out is the loss's own Hessian in the outputs. Positive
    semi-definite for a loss that is convex in the outputs.

    Parameters
    ----------
    model, inputs, loss, vector:
        as for :func:`hvp`.
    materialise:
        see :class:`~sie_spark.gradients.Engine`.

    Returns
    -------
    dict
        dense tensors, one a trainable parameter.

    Raises
    ------
    GradientError
        as for :func:`~sie_spark.gradients.per_sample`.
    """
    return _product(Engine(model, materialise=materialise), inputs, loss, vector)[0]


def _product(engine: Engine, inputs: Inputs, loss: Loss, vector: Mapping[str, Tensor]) -> tuple[Vector, int]:
    """The product summed over the batch, and the batch's size."""
    parameters = _checked(engine.model, vector)
    dots = Dots({"v": vector})
    outputs = engine(inputs, lambda output: output, dots)
    along = (
        torch.cat([task[dots.key] for task in outputs.tasks], dim=1)
        if outputs.tasks
        else outputs[dots.key].squeeze(1)
    )
    with torch.enable_grad(), evaluating(engine.model):
        leaf = outputs.output.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(leaf * 1).sum(), leaf, create_graph=True)
        curved = torch.zeros_like(leaf)
        if slope.requires_grad:
            (found,) = torch.autograd.grad((slope * along.to(slope)).sum(), leaf, allow_unused=True)
            curved = curved if found is None else found
        output = engine.model(**inputs)
        back = torch.autograd.grad(output, list(parameters.values()), curved, allow_unused=True)
    return _dense(parameters, back), len(leaf)


class GaussNewton:
    """The *mean* Gauss-Newton matrix of several batches, as an operator for ``conjugate_gradient``.

    Parameters
    ----------
    model, materialise:
        see :class:`~sie_spark.gradients.Engine`.
    batches:
        pairs of inputs and per-sample loss, or a function that yields them anew each time.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[tuple[Inputs, Loss]] | Callable[[], Iterator[tuple[Inputs, Loss]]],
        *,
        materialise: Collection[str] = (),
    ) -> None:
        self._engine = Engine(model, materialise=materialise)
        self._batches = batches

    def __call__(self, vector: Mapping[str, Tensor]) -> Vector:
        """``(1/N) sum_n J_n^T H_n J_n v``.

        Raises
        ------
        GradientError
            when there is no batch.
        """
        total: Vector = {}
        count = 0
        for inputs, loss in self._batches() if callable(self._batches) else self._batches:
            product, size = _product(self._engine, inputs, loss, vector)
            total = {name: total[name] + value if name in total else value for name, value in product.items()}
            count += size
        if not count:
            raise GradientError("GaussNewton has no batch", remedy="give at least one batch with samples")
        return {name: value / count for name, value in total.items()}


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _checked(model: nn.Module, vector: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    parameters = _trainable(model)
    for name, value in vector.items():
        if name not in parameters or parameters[name].shape != value.shape:
            expected = list(parameters[name].shape) if name in parameters else "no trainable parameter"
            raise GradientError(
                f"the vector gives {name!r} the shape {list(value.shape)}, the model has {expected}",
                remedy="build the vector from the same model (its trainable named_parameters())",
            )
    return parameters


def _dense(parameters: Mapping[str, Tensor], found: Sequence[Tensor | None]) -> Vector:
    result = {}
    for (name, p), value in zip(parameters.items(), found, strict=True):
        result[name] = torch.zeros_like(p) if value is None else value.to_dense().detach()
    return result


@contextmanager
def _dense_tables(model: nn.Module) -> Iterator[None]:
    """Sparse embedding gradients have no derivative of their own; dense ones do."""
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse]
    try:
        for table in tables:
            table.sparse = False
        yield
    finally:
        for table in tables:
            table.sparse = True
