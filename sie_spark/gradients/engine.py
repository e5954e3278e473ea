"""The shared pass: one forward, one backward to the activations, every quantity from the same factors.

Exact per-sample gradient quantities over all trainable parameters, without a per-sample gradient and
without the batch gradient ever being formed (Goodfellow 2015; Li et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

# Importing the rules registers them.
import sie_spark.gradients.rules  # noqa: F401
from sie_spark.gradients.algebra import Squares
from sie_spark.gradients.capture import Recorded, evaluating, prove_coverage, record
from sie_spark.gradients.errors import GradientError, UnsupportedLayer, UnsupportedLoss, UnsupportedParameter
from sie_spark.gradients.fallback import LIMIT, jacobian
from sie_spark.gradients.forms import Dense, Form
from sie_spark.gradients.quantities import Gradients, Measured, Quantity, Trace
from sie_spark.gradients.registry import Call, find_rule, refusal

__all__ = ["Engine", "Result", "per_sample"]

Inputs = Mapping[str, Tensor]
Loss = Callable[[Tensor], Tensor]


@dataclass
class Result(Measured):
    """The quantities of the summed loss; of each task alone in ``tasks``.

    Attributes:
        output: what the model returned, detached.
        loss: per-sample losses, [N], or [N, tasks].
        tasks: one :class:`Measured` a task when the loss is [N, tasks], otherwise empty.
    """

    output: Tensor = field(default_factory=lambda: torch.empty(0))
    loss: Tensor = field(default_factory=lambda: torch.empty(0))
    tasks: tuple[Measured, ...] = ()


class Engine:
    """Per-sample gradient quantities of one model; building it checks that every parameter has a rule.

    Args:
        model: any module; parameters with ``requires_grad=False`` are not watched. Its weights may
            change between calls, its structure may not.
        materialise: names of small raw parameters (at most 1024 entries) whose gradients may be formed
            entry by entry because no layer with a rule owns them.

    Raises:
        UnsupportedParameter: a trainable parameter is covered by no rule; the message names it.
        UnsupportedLayer: a layer whose configuration has no exact per-sample gradient (batch
            normalisation in train mode, ``max_norm``, ``nn.MultiheadAttention``).
    """

    def __init__(self, model: nn.Module, *, materialise: Collection[str] = ()) -> None:
        self.model = model
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.materialise = _known(materialise, self.parameters)
        names = {id(p): name for name, p in self.parameters.items() if name not in self.materialise}
        self._names = names
        self.layers: dict[str, nn.Module] = {}
        self._own: dict[str, dict[str, str]] = {}
        for layer_name, layer in model.named_modules():
            own = {
                key: names[id(p)] for key, p in layer._parameters.items() if p is not None and id(p) in names
            }
            if not own:
                continue
            refusal(layer, layer_name)
            if find_rule(layer) is None:
                raise _uncovered(layer_name, layer, own)
            self.layers[layer_name], self._own[layer_name] = layer, own
        self._identity = frozenset(id(p) for p in model.parameters() if p.requires_grad)
        self._probed = False

    def __call__(self, inputs: Inputs, loss: Loss, *quantities: Quantity) -> Result:
        """Measure ``quantities`` for one batch. See :func:`per_sample`."""
        self._check_structure()
        with torch.inference_mode(False), torch.enable_grad(), evaluating(self.model):
            output, calls = record(self.layers, lambda: self.model(**inputs))
            if not self._probed:
                self._probe(inputs, output)
            losses = loss(output)
            _check_loss(losses, output)
            used = prove_coverage(losses, calls, self._names) if losses.requires_grad else []
            trace = Trace({name: p.shape for name, p in self.parameters.items()}, self._order(calls))
            needed = frozenset[str]().union(*(quantity.needs(trace) for quantity in quantities))
            used = [call for call in used if needed.intersection(self._own[call.name].values())]
            raw = self._raw(inputs, loss, needed)
            deltas = _backward(losses, used)
        result = Result(output=output.detach(), loss=losses.detach())
        with torch.no_grad(), torch.autocast(losses.device.type, enabled=False):
            for task, of_task in enumerate(deltas):
                one = Measured() if len(deltas) > 1 else result
                rows = {name: value[:, task] if value.dim() == 3 else value for name, value in raw.items()}
                self._measure(trace, used, of_task, rows, quantities, losses, one)
                result.tasks += (one,) if len(deltas) > 1 else ()
            if len(deltas) > 1:
                total = [sum(parts[1:], parts[0]) for parts in zip(*deltas, strict=True)]
                summed = {name: value.sum(dim=1) for name, value in raw.items()}
                self._measure(trace, used, total, summed, quantities, losses, result)
        return result

    def _check_structure(self) -> None:
        if self._identity != frozenset(id(p) for p in self.model.parameters() if p.requires_grad):
            raise GradientError(
                "the model's trainable parameters were added, frozen or replaced since Engine was built",
                remedy="build a new Engine(model) after changing the model",
            )
        for name, layer in self.layers.items():
            refusal(layer, name)

    def _order(self, calls: Sequence[Recorded]) -> dict[str, tuple[str, ...]]:
        """Layers in the order of their last call, each with its parameters' names."""
        last = {call.name: position for position, call in enumerate(calls)}
        return {name: tuple(self._own[name].values()) for name in sorted(last, key=last.__getitem__)}

    def _probe(self, inputs: Inputs, output: Tensor) -> None:
        """Score the first sample alone, once: it must come out as in the batch, layer by layer.

        Catches what shapes cannot: samples that read each other, and calls whose first dimension is
        not the sample but happens to be as long as the batch.
        """
        n = output.shape[0] if output.dim() else 0
        if n < 2 or any(x.dim() == 0 or x.shape[0] != n for x in inputs.values()):
            return
        alone, calls = record(self.layers, lambda: self.model(**{key: x[:1] for key, x in inputs.items()}))
        for call in calls:
            if call.leading != 1:
                raise _not_samples(call.name, call.leading, 1)
        tolerance = 1e-3 if output.dtype in (torch.float32, torch.float64) else 5e-2
        if alone.shape[0] != 1 or not torch.allclose(
            alone[0].float(), output[0].float(), rtol=tolerance, atol=tolerance, equal_nan=True
        ):
            raise UnsupportedLayer(
                f"the first sample scores {alone.flatten()[:3].tolist()} alone and "
                f"{output[0].flatten()[:3].tolist()} in its batch, so samples are not independent",
                remedy="remove what couples them (in-batch statistics or negatives, random layers) while scoring",
            )
        self._probed = True

    def _raw(self, inputs: Inputs, loss: Loss, needed: frozenset[str]) -> dict[str, Tensor]:
        return {name: jacobian(self.model, name, inputs, loss) for name in self.materialise if name in needed}

    def _measure(
        self,
        trace: Trace,
        calls: Sequence[Recorded],
        deltas: Sequence[Tensor],
        raw: Mapping[str, Tensor],
        quantities: Sequence[Quantity],
        losses: Tensor,
        into: Measured,
    ) -> None:
        forms: dict[str, list[Form]] = {name: [Dense(_accumulated(value))] for name, value in raw.items()}
        for call, delta in zip(calls, deltas, strict=True):
            for key, form in self._apply(call, delta, len(losses)).items():
                if key in self._own[call.name]:
                    forms.setdefault(self._own[call.name][key], []).append(form)
        zeros = torch.zeros(len(losses), dtype=_accumulation(losses.dtype), device=losses.device)
        gradients = Gradients(trace, forms, Squares(), zeros)
        for quantity in quantities:
            quantity.measure(gradients, into)

    def _apply(self, call: Recorded, delta: Tensor, n: int) -> Mapping[str, Form]:
        call.unchanged()
        if call.leading != n:
            raise _not_samples(call.name, call.leading, n)
        function = find_rule(call.layer)
        assert function is not None  # the constructor saw to it
        args, kwargs = tree_map(_accumulated, call.args), tree_map(_accumulated, dict(call.kwargs))
        forms = function(call.layer, Call(call.name, args, kwargs, _accumulated(delta)))
        missing = set(self._own[call.name]) - set(forms)
        if missing:
            name = self._own[call.name][sorted(missing)[0]]
            raise UnsupportedParameter(
                f"the rule of {type(call.layer).__name__} returned nothing for parameter {name!r}",
                remedy="return a form for it from the rule (no weight normalisation or pruning on the layer)",
            )
        return forms


def per_sample(
    model: nn.Module,
    inputs: Inputs,
    loss: Loss,
    *quantities: Quantity,
    materialise: Collection[str] = (),
) -> Result:
    """Exact per-sample gradient quantities over all trainable parameters, from one shared pass.

    ::

        result = per_sample(model, {"cat": cat, "dense": dense},
                            lambda logit: bce(logit, y, reduction="none"), Norms(), Dots({"val": v}))
        grand = result.squared_norm.sqrt()

    The model is put in eval mode for the pass (dropout off) and restored; ``.grad`` is not touched.
    Use :class:`Engine` to keep the set-up between batches.

    Args:
        model: sample is the first dimension of every layer's input and output.
        inputs: keyword arguments of the model's ``forward``.
        loss: model output -> one loss a sample, [N], or one a sample and task, [N, tasks]
            (``reduction="none"``). Quantities are those of the loss *summed*, never averaged.
        quantities: ``Norms``, ``LastLayer``, ``Dots``, ``Projections``, in any number.
        materialise: see :class:`Engine`.

    Returns:
        A :class:`Result`. Sums run in float32 at least: under autocast or with half-precision weights
        activations and their gradients carry the half format's relative error (bfloat16 2^-8, float16
        2^-11 an operation), which the sums do not add to.

    Raises:
        UnsupportedParameter, UnsupportedLayer: see :class:`Engine`; also for a parameter used outside
            of its layer's call and for a layer that is called without a sample dimension.
        UnsupportedLoss: the loss is not [N] or [N, tasks].
        GradientError: a quantity names an unknown parameter, or the model was rebuilt under an Engine.
    """
    return Engine(model, materialise=materialise)(inputs, loss, *quantities)


def _known(materialise: Collection[str], parameters: Mapping[str, nn.Parameter]) -> tuple[str, ...]:
    names = (materialise,) if isinstance(materialise, str) else tuple(materialise)
    for name in names:
        if name not in parameters:
            raise UnsupportedParameter(
                f"materialise names {name!r}, which is no trainable parameter of the model",
                remedy=f"choose among {sorted(parameters)}",
            )
        if parameters[name].numel() > LIMIT:
            raise UnsupportedParameter(
                f"parameter {name!r} has {parameters[name].numel()} entries; materialising stops at {LIMIT}",
                remedy="move it into a layer of its own and register a rule (sie_spark.gradients.rule)",
            )
    return names


def _uncovered(layer_name: str, layer: nn.Module, own: Mapping[str, str]) -> UnsupportedParameter:
    kind = type(layer).__name__
    return UnsupportedParameter(
        f"parameter {next(iter(own.values()))!r} belongs to layer {layer_name or 'the model itself'!r} ({kind}), "
        "which has no per-sample gradient rule",
        remedy=f"register one: @sie_spark.gradients.rule({kind}), returning a form for each of {sorted(own)}; "
        f"for a small raw parameter pass materialise={sorted(own.values())}; or freeze it",
    )


def _not_samples(name: str, leading: int, n: int) -> UnsupportedLayer:
    return UnsupportedLayer(
        f"layer {name!r} was called with first dimension {leading} for {n} samples",
        remedy="give every layer tensors [N, ...], sample first: expand shared inputs (positions) to the batch "
        "and keep sequences unflattened",
    )


def _check_loss(losses: Tensor, output: Tensor) -> None:
    n = output.shape[0] if output.dim() else 0
    wrong = losses.dim() not in (1, 2) or losses.shape[0] != n
    # [N, 1] logits against [N] labels broadcast to [N, N], which would pass for N tasks.
    wrong = wrong or (losses.dim() == 2 and output.dim() == 2 and losses.shape[1] not in (1, output.shape[1]))
    wrong = wrong or (losses.dim() == 2 and output.dim() == 1 and losses.shape[1] == n)
    if wrong:
        raise UnsupportedLoss(
            f"the loss has shape {list(losses.shape)} for an output of shape {list(output.shape)}; "
            "it must hold one value a sample, [N], or a sample and task, [N, tasks]",
            remedy="use reduction='none' (a mean or sum over the batch hides its samples) and labels of the "
            "output's shape",
        )


def _backward(losses: Tensor, calls: Sequence[Recorded]) -> list[list[Tensor]]:
    """Gradients of each task's summed loss in each call's output: one list a task ([N]: one task)."""
    tasks = [losses] if losses.dim() == 1 else list(losses.unbind(dim=1))
    if not calls:
        return [[] for _ in tasks]
    edges = [call.edge for call in calls]
    gradients: list[list[Tensor]] = []
    for position, task in enumerate(tasks):
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            [task], edges, [torch.ones_like(task)], retain_graph=position < len(tasks) - 1, allow_unused=True
        )
        # A call that this task does not depend on has no gradient; the sum over tasks needs its zeros.
        gradients.append(
            [call.zeros() if delta is None else delta for call, delta in zip(calls, found, strict=True)]
        )
    return gradients


def _accumulation(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _accumulated(value: Any) -> Any:
    """Half-precision tensors in float32; anything else as it is."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().to(_accumulation(value.dtype))
    return value
