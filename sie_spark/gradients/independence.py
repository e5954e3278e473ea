"""Does a sample's result depend on the other samples of its batch? No shape can tell, so it is tried.

The gradient of a summed loss holds each sample's own gradient only while samples do not read each other. The
probe measures a batch again with a sample left as it was and its surroundings changed, and compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sie_spark.gradients.errors import UnsupportedLayer, UnsupportedLoss

__all__ = ["Look", "Seen", "Widened", "check_loss", "check_samples", "check_widened", "not_widened"]

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Seen:
    """What one run of a model shows of its N samples.

    Attributes
    ----------
    output:
        floating [N, K], detached; the entries of one sample are flattened.
    norms:
        squared norm of every sample's gradient of a fixed weighted sum of its own outputs, by parameter, [N, P].
    parameters:
        names of the P columns.
    reads:
        every call's layer with the tensors that went into it, in the order of the calls; only for messages.
    eps:
        relative spacing of numbers in the coarsest format that took part.
    """

    output: Tensor
    norms: Tensor
    parameters: tuple[str, ...]
    reads: Sequence[tuple[str, Sequence[Tensor]]]
    eps: float


@dataclass(frozen=True, eq=False)
class Widened:
    """A batch without and with widening: calls of one row for all samples given one row for each.

    Attributes
    ----------
    plain, output:
        what the model returns of its N samples, [N, ...], without and with widening.
    names:
        of the layers that are widened.
    layers:
        name of the layer of every widened call that reaches the output.
    before, after:
        gradient that arrives in every call's output, [N, ...], with one weight for all samples' losses, and with
        factors on them.
    """

    plain: Tensor
    output: Tensor
    names: tuple[str, ...]
    layers: tuple[str, ...]
    before: Sequence[Tensor]
    after: Sequence[Tensor]


# One run. The second argument multiplies each sample's share of the summed loss, [N] (None: ones); the norms
# that come back are divided by it again, so that it changes nothing where samples are independent.
Look = Callable[[Inputs, Tensor | None], Seen]
LookWidened = Callable[[Inputs, Tensor], Widened]
# Some rows of a run.
Part = tuple[Seen, Tensor]

_COUPLED = (
    "remove what mixes samples while scoring (sums, statistics, sorting or negatives over the batch), or work it "
    "out beforehand and pass it as an input; when an input is not sample-first (flat ids with offsets), "
    "build Engine(model, block=None)"
)
_UNSTABLE = "in eval mode switch off what is random (functional.dropout) or remembers earlier calls (buffers)"
_SINGLE = (
    "let forward take one sample as well as many: squeeze(1) instead of squeeze(), no top-k over the batch"
)


@dataclass(frozen=True)
class _Change:
    """How one number of a sample was measured a second time, and what follows if it came out otherwise."""

    how: str
    so: str = "samples are not independent: the model mixes the rows of its batch"
    remedy: str = _COUPLED


_AGAIN = _Change("when the batch is run again", "its score is not one number", _UNSTABLE)
_ALONE = _Change("alone")
_LOSSES = _Change("when the losses of others are weighted")
_NEIGHBOURS = _Change("when other samples take the places of its neighbours")
_ELSEWHERE = _Change("at another place of the batch")


def check_samples(look: Look, inputs: Inputs, *, rows: int | None, precise: Callable[[], Look]) -> None:
    """Compare samples with themselves in other surroundings: their outputs and their gradients' norms.

    Five comparisons, none of which may change a sample: the batch again, other factors on its losses; the
    first, the middle and the last sample alone; twice a batch in which half of the samples keep their places
    and the others are overwritten by copies of them. A sample that keeps its place in a batch of the same size
    goes through the same operations on the same numbers, so its last bits count; elsewhere rounding is
    allowed for. What still differs is measured again in double precision before it is refused: rounding
    shrinks a billion times there, and coupling does not.

    Coupling that the batch at hand does not show passes: that of a sample with a special value which is not
    in it, of batches of another size, or of one pair of samples without a gradient between them that
    both kept their places.

    Parameters
    ----------
    look:
        runs the model.
    inputs:
        of one batch of two samples or more.
    rows:
        number of samples, where every input has them first; None for inputs that cannot be cut (flat ids
        with offsets), of which only the first comparison can be made.
    precise:
        builds ``look`` in double precision.

    Raises
    ------
    UnsupportedLayer
        naming a sample, what of it changed, and the layer before which samples are mixed.
    """
    _refuse(partial(_differences, rows=rows), look, inputs, precise)


def check_widened(look: LookWidened, inputs: Inputs, *, precise: Callable[[], LookWidened]) -> None:
    """Compare a batch without and with widening; prove that each row of a widened call serves its sample alone.

    The output must stay what it was. A factor on a sample's loss must multiply the gradient that arrives in
    that sample's row of every widened call, and no other: then that gradient is the sample's own. Rounding is
    told from differences as by :func:`check_samples`.

    Parameters
    ----------
    look:
        runs the model both ways; the factors on the samples' losses are its second argument.
    inputs:
        of one batch of N samples, all sample-first (numbers apart).
    precise:
        builds ``look`` in double precision.

    Raises
    ------
    UnsupportedLayer
        naming the layer, and what one row a sample does to the model.
    """
    _refuse(_widened_differences, look, inputs, precise)


def not_widened(layers: Sequence[str], n: int, why: str) -> UnsupportedLayer:
    """The error for calls of one row for all samples when the model does not take one row for each."""
    return UnsupportedLayer(
        f"layer {' or '.join(map(repr, layers))} was called with first dimension 1 for {n} samples, "
        f"and giving it one row for each sample {why}",
        remedy="expand what the batch shares (positions) to [N, ...] before the layer, and use its output "
        "sample first: no [0], repeat or sum over its first dimension",
    )


def _refuse(
    find: Callable[..., Iterator[UnsupportedLayer]],
    look: Any,
    inputs: Inputs,
    precise: Callable[[], Any],
) -> None:
    """Raise the first difference that is still found in double precision."""
    found = next(find(look, inputs, strict=True), None)
    if found is None:
        return
    doubled = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    try:
        found = next(find(precise(), doubled, strict=False), None)
    except (RuntimeError, TypeError):  # the model cannot be copied, or insists on its own precision
        found = next(find(look, inputs, strict=False), None)
    if found is not None:
        raise found


def _widened_differences(look: LookWidened, inputs: Inputs, *, strict: bool) -> Iterator[UnsupportedLayer]:
    n = max(len(x) for x in inputs.values() if x.dim())
    factor = _factors(n)
    seen = look(inputs, factor)
    eps = torch.finfo(seen.output.dtype).eps
    tolerance = min(16 * eps, math.sqrt(eps)) if strict else math.sqrt(eps)
    if seen.plain.shape != seen.output.shape or len(seen.plain) != n:
        shapes = f"{list(seen.output.shape)} for {list(seen.plain.shape)}"
        yield not_widened(seen.names, n, f"makes the model return {shapes}")
        return
    plain, output = _flat(seen.plain), _flat(seen.output)
    moved = _moved(plain, output, _usual(plain), tolerance)
    if moved is not None:
        yield not_widened(
            seen.names,
            n,
            f"changes what the model returns of sample {moved[0]}: {output[moved]:.6g} for {plain[moved]:.6g}",
        )
    for layer, before, after in zip(seen.layers, seen.before, seen.after, strict=True):
        if before.shape[:1] != (n,):
            yield not_widened([layer], n, f"makes it return {list(before.shape)}")
            return
        expected = _flat(before)
        found = _flat(after) / factor.to(expected).unsqueeze(1)
        moved = _moved(expected, found, _usual(expected), tolerance)
        if moved is not None:
            yield not_widened([layer], n, f"mixes them: others read the row of sample {moved[0]}")


def check_loss(losses: Tensor, output: Tensor, heads: Sequence[Tensor]) -> None:
    """Refuse a loss of which one sample's value depends on the output of another.

    A factor on a sample's loss must multiply the gradient of that sample's output, and no other. The factors
    are powers of two, so this holds to the last bit. The loss is not evaluated again, since it may draw numbers;
    what it reads of others without a gradient (a detached mean) is therefore not seen.

    Parameters
    ----------
    losses:
        [N] or [N, tasks], computed from ``output``.
    output:
        the model's, [N, ...].
    heads:
        gradient of every task's summed loss in ``output``.

    Raises
    ------
    UnsupportedLoss
        naming a sample whose output the losses of others read.
    """
    if len(output) < 2 or not losses.requires_grad:
        return
    n = len(output)
    factor = _factors(n).to(losses)
    weighted = losses.reshape(n, -1).sum(dim=1) * factor
    (found,) = torch.autograd.grad(weighted.sum(), output, retain_graph=True, allow_unused=True)
    if found is None:
        return
    expected = torch.stack(list(heads)).sum(dim=0).reshape(n, -1)
    found = found.reshape(n, -1) / factor.unsqueeze(1)
    moved = _moved(expected, found, _usual(expected), 16 * torch.finfo(output.dtype).eps)
    if moved is not None:
        raise UnsupportedLoss(
            f"the loss of other samples depends on the output of sample {moved[0]} of {n}",
            remedy="use a loss that treats samples one by one (no in-batch softmax, ranks or pairs)",
        )


def _differences(look: Look, inputs: Inputs, *, rows: int | None, strict: bool) -> Iterator[UnsupportedLayer]:
    """Every difference, as the error that names it; ``strict`` counts last bits where operations are the same."""
    if rows is not None:
        inputs = _take(inputs, torch.arange(rows))  # all runs read tensors that are aligned alike
    base = look(inputs, None)
    n = len(base.output)
    if n != (rows or n):
        yield UnsupportedLayer(f"the model returned {n} rows for {rows} samples", remedy=_COUPLED)
        return
    every, loose = torch.arange(n), math.sqrt(base.eps)
    tight = min(16 * base.eps, loose) if strict else loose

    again = look(inputs, _factors(n))
    yield from _outputs((base, every), (again, every), tight, _AGAIN)
    for i in sorted({0, n // 2, n - 1}) if rows is not None else ():
        at = torch.tensor([i])
        alone = _alone(look, _take(inputs, at), i, n)
        yield from _outputs((base, at), (alone, torch.tensor([0])), loose, _ALONE)
        yield from _norms((base, at), (alone, torch.tensor([0])), loose, _ALONE)
    yield from _norms((base, every), (again, every), tight, _LOSSES)
    for kept, others, source in _exchanges(n) if rows is not None else ():
        changed = look(_take(inputs, source), torch.ones(n).index_fill(0, others, -2.0))
        yield from _outputs((base, kept), (changed, kept), tight, _NEIGHBOURS)
        yield from _norms((base, kept), (changed, kept), tight, _NEIGHBOURS)
        yield from _outputs((base, source[others]), (changed, others), loose, _ELSEWHERE)


def _outputs(before: Part, after: Part, tolerance: float, change: _Change) -> Iterator[UnsupportedLayer]:
    """Outputs of the same samples in two runs."""
    (base, at), (other, to) = before, after
    x, y = base.output[at], other.output[to]
    moved = _moved(x, y, _usual(base.output), tolerance)
    if moved is not None:
        yield UnsupportedLayer(
            f"sample {int(at[moved[0]])} of {len(base.output)} scores {x[moved]:.6g} in its batch and "
            f"{y[moved]:.6g} {change.how}, so {change.so}{_where(before, after)}",
            remedy=change.remedy,
        )


def _norms(before: Part, after: Part, tolerance: float, change: _Change) -> Iterator[UnsupportedLayer]:
    """Squared gradient norms of the same samples in two runs."""
    (base, at), (other, to) = before, after
    x, y = base.norms[at], other.norms[to]
    moved = _moved(x, y, _usual(base.norms), tolerance)
    if moved is not None:
        yield UnsupportedLayer(
            f"the gradient of sample {int(at[moved[0]])} of {len(base.norms)} in parameter "
            f"{base.parameters[moved[1]]!r} has the squared norm {x[moved]:.6g} in its batch and "
            f"{y[moved]:.6g} {change.how}, so {change.so}{_where(before, after)}",
            remedy=change.remedy,
        )


def _where(before: Part, after: Part) -> str:
    """Words for the first layer that was given something else; empty when that cannot be told."""
    (base, at), (other, to) = before, after
    sizes = (len(base.output), len(other.output))
    for (layer, given), (name, received) in zip(base.reads, other.reads, strict=False):
        for x, y in zip(given, received, strict=False):
            if layer != name or x.shape[1:] != y.shape[1:] or (len(x), len(y)) != sizes:
                return ""
            expected = _flat(x[at])
            if _moved(expected, _flat(y[to]), _usual(expected), math.sqrt(base.eps)) is not None:
                return f" (what goes into layer {layer or 'the model itself'!r} differs already)"
    return ""


def _alone(look: Look, inputs: Inputs, i: int, n: int) -> Seen:
    try:
        return look(inputs, None)
    except UnsupportedLayer:
        raise
    except Exception as error:
        raise UnsupportedLayer(
            f"the model takes a batch of {n} samples but not sample {i} alone ({type(error).__name__}: {error}), "
            "so samples are not independent",
            remedy=_SINGLE,
        ) from error


def _exchanges(n: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Samples that keep their places, the places of the others, and the sample that each place receives."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    for kept, others in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
        source = torch.arange(n)
        source[others] = kept[torch.arange(len(others)) % len(kept)]
        yield kept, others, source


def _factors(n: int) -> Tensor:
    """Powers of two with signs: multiplying by them rounds nothing, so it commutes with every linear step."""
    generator = torch.Generator().manual_seed(n)
    power = torch.randint(-3, 4, (n,), generator=generator).float().exp2()
    return torch.where(torch.rand(n, generator=generator) < 0.5, -power, power)


def _take(inputs: Inputs, rows: Tensor) -> Inputs:
    return {name: x[rows.to(x.device)] if x.dim() else x for name, x in inputs.items()}


def _flat(x: Tensor) -> Tensor:
    """[N, ...] -> floating [N, K]."""
    x = x.reshape(len(x), -1)
    return x if x.is_floating_point() else x.double()


def _usual(values: Tensor) -> Tensor:
    """The usual size of a sample's largest entry; one sample's huge value does not hide the others'."""
    return values.abs().amax(dim=1).nan_to_num().median() if values.numel() else values.new_zeros(())


def _moved(before: Tensor, after: Tensor, size: Tensor, tolerance: float) -> tuple[int, int] | None:
    """Row and column of the largest change of [M, K] beyond ``tolerance`` of the row and of ``size``, if any."""
    if not before.numel():
        return None
    gap = (before - after).abs()
    allowed = tolerance * (before.abs().amax(dim=1, keepdim=True).nan_to_num() + size)
    same = (gap <= allowed) | (before == after) | (before.isnan() & after.isnan())
    if bool(same.all()):
        return None
    worst = int(gap.nan_to_num(nan=math.inf).masked_fill(same, -1.0).argmax())
    return divmod(worst, before.shape[1])
