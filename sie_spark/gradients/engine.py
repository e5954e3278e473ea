"""The shared pass: one forward, one backward to the activations, every quantity from the same factors.

Exact per-sample gradient quantities over all trainable parameters, without a per-sample gradient and
without the batch gradient ever being formed (Goodfellow 2015; Li et al. 2021).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

# Importing the rules registers them.
import sie_spark.gradients.rules  # noqa: F401
from sie_spark.gradients.algebra import Squares, squared_norm
from sie_spark.gradients.capture import Recorded, evaluating, prove_coverage, record
from sie_spark.gradients.errors import GradientError, UnsupportedLayer, UnsupportedParameter
from sie_spark.gradients.fallback import LIMIT, jacobian
from sie_spark.gradients.forms import Dense, Form
from sie_spark.gradients.independence import (
    Seen,
    Widened,
    check_loss,
    check_samples,
    check_widened,
    not_widened,
)
from sie_spark.gradients.losses import check_shape, head_gradients, joined_output
from sie_spark.gradients.quantities import Gradients, Measured, Quantity, Trace, by_key, merge
from sie_spark.gradients.registry import Call, find_rule, refusal

__all__ = ["Engine", "Result", "per_sample"]

Inputs = Mapping[str, Tensor]
Loss = Callable[[Tensor], Tensor]


class Result(Measured):
    """What was measured of the summed loss: ``result[key]``, [N] or [N, k], by the key of who asked.

    Attributes
    ----------
    output:
        what the model returned, detached.
    loss:
        per-sample losses, [N] or [N, tasks].
    tasks:
        the same of each task alone, ``result.tasks[t][key]``, where the loss is [N, tasks]; otherwise empty.
    """

    def __init__(
        self, measured: Measured, *, output: Tensor, loss: Tensor, tasks: tuple[Measured, ...] = ()
    ) -> None:
        super().__init__(measured)
        self.output, self.loss, self.tasks = output, loss, tasks


class Engine:
    """Per-sample gradient quantities of one model; building it checks that every parameter has a rule.

    The first batch, and one that is twice as large as those before, is measured several times over to try
    whether samples are independent (:func:`~sie_spark.gradients.independence.check_samples`). That costs about
    four passes of one block of the batch; keep the engine between batches.

    A layer that is called with one row for the whole batch (position ids [1, T], as in stock transformers) is
    given that row once for each sample during the pass, where every input has its samples first and the probe
    shows that this changes nothing in the model; otherwise it is refused.

    Parameters
    ----------
    model:
        any module; parameters with ``requires_grad=False`` are not watched. Its weights may change between
        calls, its structure may not.
    materialise:
        names of small raw parameters (at most 1024 entries) whose gradients may be formed entry by entry
        because no layer with a rule owns them.
    block:
        samples that run through the model together; a batch whose inputs all have the sample first is cut into
        such blocks, which changes no result. None never cuts the batch, for models whose inputs are not all
        sample-first (flat ids with offsets); of these only coupling between gradients can be seen.

    Attributes
    ----------
    shapes:
        of the watched parameters, by name.

    Raises
    ------
    UnsupportedParameter
        when a trainable parameter is covered by no rule; the message names it.
    UnsupportedLayer
        for a layer whose configuration has no exact per-sample gradient (batch normalisation in train mode,
        ``max_norm``, ``nn.MultiheadAttention``).
    """

    def __init__(
        self, model: nn.Module, *, materialise: Collection[str] = (), block: int | None = 1536
    ) -> None:
        self.model = model
        self.block = block
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.shapes = {name: p.shape for name, p in self.parameters.items()}
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
        self._probed = 0
        self._widen: frozenset[str] = frozenset()

    def __call__(self, inputs: Inputs, loss: Loss, *quantities: Quantity) -> Result:
        """Measure ``quantities`` for one batch. See :func:`per_sample`."""
        self._check_structure()
        asked = by_key(quantities)
        with torch.inference_mode(False), torch.enable_grad(), evaluating(self.model):
            parts = self._split(inputs)
            self._probe(parts[0])
            blocks = [self._record(part) for part in parts]
            # The loss sees the whole batch, cut off from the graphs of the blocks.
            output = joined_output([block_output for block_output, _ in blocks]).requires_grad_()
            losses = loss(output.clone())
            check_shape(losses, output)
            prove_coverage(losses, [], self._names)
            trace = Trace(self.shapes, self._order(blocks[0][1]))
            needed = frozenset[str]().union(*(quantity.needs(trace) for quantity in asked.values()))
            raw = {k: jacobian(self.model, k, inputs, loss) for k in self.materialise if k in needed}
            heads = head_gradients(losses, output)
            check_loss(losses, output, heads)
        measured: list[list[Measured]] = []
        start = 0
        while blocks:
            # Taken off the list, so that a block's graph and gradients are freed before the next.
            block_output, calls = blocks.pop(0)
            rows = slice(start, start := start + len(block_output))
            used = prove_coverage(block_output, calls, self._names)
            used = [call for call in used if needed.intersection(self._own[call.name].values())]
            deltas = _backward(block_output, [head[rows] for head in heads], used)
            with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
                zeros = torch.zeros(
                    len(block_output), dtype=_accumulation(losses.dtype), device=losses.device
                )
                columns = [{k: v[rows, task] for k, v in raw.items()} for task in range(len(heads))]
                if losses.dim() == 1:
                    columns = [{k: v[rows] for k, v in raw.items()}]
                else:
                    deltas.append([sum(parts[1:], parts[0]) for parts in zip(*deltas, strict=True)])
                    columns.append({k: v[rows].sum(dim=1) for k, v in raw.items()})
                forms = [self._forms(used, d, c, zeros) for d, c in zip(deltas, columns, strict=True)]
                last = len(forms) - 1
                measured.append(
                    [
                        _measure(Gradients(trace, f, Squares(), zeros, i == last), asked)
                        for i, f in enumerate(forms)
                    ]
                )
        *tasks, total = [merge(parts) for parts in zip(*measured, strict=True)]
        return Result(total, output=output.detach(), loss=losses.detach(), tasks=tuple(tasks))

    def _split(self, inputs: Inputs) -> list[Inputs]:
        """Blocks of the batch small enough that a layer's activations stay in the cache between operations."""
        size = self._samples(inputs)
        if self.block is None or size is None:
            return [inputs]
        count = max(1, round(size / self.block))
        pieces = {name: x.tensor_split(count) if x.dim() else [x] * count for name, x in inputs.items()}
        return [{name: parts[i] for name, parts in pieces.items()} for i in range(count)]

    def _samples(self, inputs: Inputs) -> int | None:
        """The number of samples, where every input (numbers apart) has them first; None when it cannot be cut."""
        sizes = {len(x) for x in inputs.values() if x.dim()}
        return sizes.pop() if self.block is not None and len(sizes) == 1 else None

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

    def _probe(self, part: Inputs) -> None:
        """Try whether samples are independent, once for a size of batch; see :func:`check_samples`."""
        rows = self._samples(part)
        n = max((len(x) for x in part.values() if x.dim()), default=0) if rows is None else rows
        # A first batch of a few samples shows little, so a much larger one is tried again.
        if n < 2 or n < 2 * self._probed:
            return

        def precise() -> Engine:
            twin = Engine(copy.deepcopy(self.model).double(), materialise=self.materialise, block=self.block)
            twin._widen = self._widen
            return twin

        proven = self._widen
        if rows is not None:
            self._widen |= self._shared(part)
        try:
            if self._widen:
                check_widened(self._look_widened, part, precise=lambda: precise()._look_widened)
            check_samples(self._look, part, rows=rows, precise=lambda: precise()._look)
        except BaseException:
            self._widen = proven
            raise
        self._probed = n

    def _record(self, inputs: Inputs) -> tuple[Tensor, list[Recorded]]:
        run = partial(self.model, **inputs)
        return record(self.layers, run, widen=self._widen, samples=self._samples(inputs))

    def _shared(self, inputs: Inputs) -> frozenset[str]:
        """Layers that a forward pass calls with one row for the whole batch, and that reach its output."""
        output, calls = record(self.layers, partial(self.model, **inputs))
        joined_output([output])
        used = prove_coverage(output, calls, self._names)
        return frozenset(call.name for call in used if call.shared)

    def _look_widened(self, inputs: Inputs, factor: Tensor) -> Widened:
        """Outputs without and with widening, and the gradients that arrive in every widened call."""
        plain = joined_output([record(self.layers, partial(self.model, **inputs))[0]])
        names = tuple(sorted(self._widen))
        try:
            output, calls = self._record(inputs)
        except UnsupportedLayer:
            raise
        except Exception as error:  # whatever the model's own code makes of one row more
            raise not_widened(names, len(plain), f"fails: {error}") from error
        joined = joined_output([output])
        used = [call for call in prove_coverage(output, calls, self._names) if call.widened]
        heads = [_head(joined, None), _head(joined, factor if len(factor) == len(joined) else None)]
        before, after = _backward(output, heads, used)
        return Widened(plain, joined, names, tuple(call.name for call in used), before, after)

    def _look(self, inputs: Inputs, factor: Tensor | None) -> Seen:
        """Outputs, and the gradient norms of a weighted sum of each sample's outputs: of the model, without a loss."""
        output, calls = self._record(inputs)
        joined = joined_output([output])
        n = len(joined)
        used = prove_coverage(output, calls, self._names)
        (deltas,) = _backward(output, [_head(joined, factor)], used)
        with torch.no_grad(), torch.autocast(joined.device.type, enabled=False):
            zeros = torch.zeros(n, dtype=_accumulation(joined.dtype), device=joined.device)
            forms, squares = self._forms(used, deltas, {}, zeros), Squares()
            columns = [squared_norm(forms[k], squares) if k in forms else zeros for k in self.parameters]
            norms = torch.stack(columns, dim=1) if columns else zeros.unsqueeze(1)
            if factor is not None:
                norms = norms / factor.to(norms).square().unsqueeze(1)
        dtypes = {joined.dtype, *(call.dtype for call in used)}
        return Seen(
            output=joined.reshape(n, -1),
            norms=norms,
            parameters=tuple(self.parameters),
            reads=[(call.name, [x.detach() for x in call.tensors()]) for call in used],
            eps=max(torch.finfo(dtype).eps for dtype in dtypes),
        )

    def _forms(
        self, calls: Sequence[Recorded], deltas: Sequence[Tensor], raw: Mapping[str, Tensor], zeros: Tensor
    ) -> dict[str, list[Form]]:
        """Every parameter's factored gradients of one block and task."""
        forms: dict[str, list[Form]] = {name: [Dense(_accumulated(value))] for name, value in raw.items()}
        for call, delta in zip(calls, deltas, strict=True):
            for key, form in self._apply(call, delta, len(zeros)).items():
                if key in self._own[call.name]:
                    forms.setdefault(self._own[call.name][key], []).append(form)
        return forms

    def _apply(self, call: Recorded, delta: Tensor, n: int) -> Mapping[str, Form]:
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
    block: int | None = 1536,
) -> Result:
    """Exact per-sample gradient quantities over all trainable parameters, from one shared pass.

    The model is put in eval mode for the pass (dropout off) and restored; ``.grad`` is not touched. Use
    :class:`Engine` to keep the set-up, and the probe of independence, between batches.

    Parameters
    ----------
    model:
        sample is the first dimension of every layer's input and output.
    inputs:
        keyword arguments of the model's ``forward``.
    loss:
        model output -> one loss a sample, [N], or one a sample and task, [N, tasks] (``reduction="none"``).
        Quantities are those of the loss *summed*, never averaged.
    quantities:
        ``Norms``, ``LastLayer``, ``Dots``, ``Projections``, ``KFAC`` or one's own, in any number; two that differ
        need different keys.
    materialise, block:
        see :class:`Engine`.

    Returns
    -------
    Result
        by key of each quantity. Sums run in float32 at least: under autocast or with half-precision weights
        activations and their gradients carry the half format's relative error (bfloat16 2^-8, float16 2^-11 an
        operation), which the sums do not add to.

    Raises
    ------
    UnsupportedParameter, UnsupportedLayer
        see :class:`Engine`; also for a parameter used outside of its layer's call, for a layer that is called
        without a sample dimension, and for a model whose samples read each other.
    UnsupportedLoss
        when the loss is not [N] or [N, tasks], or one sample's loss reads the output of another.
    GradientError
        when a quantity names an unknown parameter, two different quantities have one key, or the model was
        rebuilt under an Engine.

    Examples
    --------
    ::

        dots = Dots({"validation": v})
        result = per_sample(model, {"cat": cat, "dense": dense},
                            lambda logit: bce(logit, y, reduction="none"), Norms(), dots)
        grand = result["squared_norm"].sqrt()
        tracin = result[dots.key][:, 0]
    """
    return Engine(model, materialise=materialise, block=block)(inputs, loss, *quantities)


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


def _head(output: Tensor, factor: Tensor | None) -> Tensor:
    """The gradient in the outputs of a weighted sum of each sample's own, times ``factor``, [N]."""
    n = len(output)
    flat = output.reshape(n, -1)
    # Unequal weights: entries that always add up to one would have no gradient.
    weights = torch.linspace(1, 2, flat.shape[1]).to(output)
    share = (torch.ones(n) if factor is None else factor).to(output).unsqueeze(1)
    return (share * weights).view_as(output)


def _not_samples(name: str, leading: int, n: int) -> UnsupportedLayer:
    return UnsupportedLayer(
        f"layer {name!r} was called with first dimension {leading} for {n} samples",
        remedy="expand what the batch shares (positions) to [N, ...] before the layer; the engine does so itself "
        "only where every input of the model has its samples first, and block is not None"
        if leading == 1
        else "give every layer tensors [N, ...], sample first; what the batch shares (positions) as one row, "
        "[1, ...]; keep sequences unflattened",
    )


def _backward(output: Tensor, heads: Sequence[Tensor], calls: Sequence[Recorded]) -> list[list[Tensor]]:
    """Gradients in each call's output, one list a task."""
    if not calls:
        return [[] for _ in heads]
    for call in calls:
        call.unchanged()
    edges = [call.edge for call in calls]
    gradients = []
    for position, head in enumerate(heads):
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            [output], edges, [head], retain_graph=position < len(heads) - 1, allow_unused=True
        )
        gradients.append([call.zeros() if d is None else d for call, d in zip(calls, found, strict=True)])
    return gradients


def _measure(gradients: Gradients, asked: Mapping[str, Quantity]) -> Measured:
    found = Measured()
    n = len(gradients.zeros)
    for key, quantity in asked.items():
        value = quantity.measure(gradients)
        if value is None:
            continue
        if value.dim() not in (1, 2) or len(value) != n:
            raise GradientError(
                f"quantity {key!r} ({type(quantity).__name__}) measured {list(value.shape)} of {n} samples",
                remedy="let measure() return one row a sample, [N] or [N, k], or None",
            )
        found[key] = value
    return found


def _accumulation(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _accumulated(value: Any) -> Any:
    """Half-precision tensors in float32; anything else as it is."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().to(_accumulation(value.dtype))
    return value
