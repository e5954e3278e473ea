"""Do attribution scores say what retraining does? ``python benchmarks/attribution.py``

A smooth DCN-v2 is fitted on a generated table, then again on random halves of its rows. An attribution score of a
training row for a target row is right when its sum over a half tells how the target's loss came out there: the
linear datamodelling score (LDS, Park et al. 2023) is the Spearman correlation of the two over the halves, the mean
over targets. Our scorers and those of dattri, captum, kronfluence and pyDVL are judged by it on the same model,
rows and targets. Two decisions follow: what happens without the rows that a score calls most helpful, and whether it
finds labels that were flipped. Fits and scores are kept under --root by a digest of data, settings and code, so that
a run can be stopped and go on. Prints one JSON line a measure.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import inspect
import json
import math
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import combinations, pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from sie_spark.gradients import (
    EKFAC,
    KFAC,
    Dots,
    Engine,
    GaussNewton,
    Norms,
    TensorSketch,
    conjugate_gradient,
    gradient,
)
from sie_spark.importance import shapley
from sie_spark.importance.fits.ekfac_direction import preconditioned
from sie_spark.models import Batch, build_model
from sie_spark.platform.code import code_digest
from sie_spark.platform.config import Model
from sie_spark.platform.config.load import digest
from sie_spark.platform.inputs import InputSpec

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
FIT_CODE = ("sie_spark.models",)


@dataclass(frozen=True)
class Settings:
    """Rows, model and fit; the same for every retraining.

    Attributes
    ----------
    table, rows:
        of benchmarks/tables.py, and training rows.
    targets, tuning, validation:
        rows after the training rows: those that are reported, those that settings were chosen on, and those whose
        mean loss judges removal.
    subsets, starts:
        random halves, and fits of each, which differ in start values and order of the rows.
    l2:
        what times a weight joins its gradient, all weights alike.
    """

    table: str = "crossed"
    rows: int = 10_000
    targets: int = 100
    tuning: int = 100
    validation: int = 2000
    subsets: int = 100
    starts: int = 4
    embedding_dim: int = 4
    hidden: tuple[int, ...] = (32, 16)
    cross_layers: int = 2
    epochs: int = 20
    batch_size: int = 500
    learning_rate: float = 1e-2
    l2: float = 2e-3
    rare: int = 10
    checkpoints: tuple[int, ...] = (4, 8, 12, 16, 20)
    removal_seeds: int = 5


# ---------------------------------------------------------------- rows


@dataclass(frozen=True)
class Problem:
    """The encoded rows of one table."""

    settings: Settings
    spec: InputSpec
    train: Batch
    targets: Batch
    tuning: Batch
    validation: Batch

    @property
    def held(self) -> Batch:
        """Targets, tuning rows and validation rows, in this order: a fit is kept as its losses on them."""
        return Batch.concat([self.targets, self.tuning, self.validation])


def problem(settings: Settings) -> Problem:
    """Encode a generated table: ids by number of rows, numbers by mean and deviation of the training rows."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import tables

    ends = np.cumsum([0, settings.rows, settings.targets, settings.tuning, settings.validation])
    frame, first = getattr(tables, settings.table)(int(ends[-1])), settings.rows
    names = [name for name in frame.columns if name not in ("event_ts", "label", "p")]
    categories = [name for name in names if frame[name].dtype == object]
    numbers = [name for name in names if name not in categories]
    ids, sizes = [], {}
    for name in categories:
        count = frame[name][:first].value_counts()
        known = {value: k + 1 for k, value in enumerate(sorted(count[count >= settings.rare].index))}
        ids.append(frame[name].map(known).fillna(0).to_numpy(np.int64))
        sizes[name] = len(known) + 1
    dense = frame[numbers].to_numpy()
    dense = ((dense - dense[:first].mean(axis=0)) / dense[:first].std(axis=0)).astype(np.float32)
    everything = Batch(
        {"cat": torch.from_numpy(np.stack(ids, axis=1)), "dense": torch.from_numpy(dense)},
        torch.from_numpy(frame["label"].to_numpy(np.float32)),
        torch.zeros(len(frame)),
        torch.ones(len(frame)),
        torch.arange(len(frame)),
    )
    parts = [everything.take(slice(int(a), int(b))) for a, b in pairwise(ends)]
    return Problem(settings, InputSpec(categories=sizes, numbers=tuple(numbers)), *parts)


# ---------------------------------------------------------------- fits


def smooth(model: nn.Module) -> nn.Module:
    """GELU for ReLU, so that second derivatives exist everywhere."""
    for name, child in model.named_children():
        if isinstance(child, nn.ReLU):
            setattr(model, name, nn.GELU())
        else:
            smooth(child)
    return model


def losses(model: nn.Module, batch: Batch) -> Tensor:
    """Log-loss of each row, [N]."""
    return functional.binary_cross_entropy_with_logits(model(**batch.inputs), batch.label, reduction="none")


@dataclass(frozen=True)
class Fit:
    """A fitted model, and (learning rate, weights) of the passes that were asked for."""

    model: nn.Module
    checkpoints: list[tuple[float, dict[str, Tensor]]]


def fit(rows: Batch, spec: InputSpec, settings: Settings, seed: int) -> Fit:
    """Adam with a rate that falls to nothing, L2 in the gradient: it ends near a stationary point of a fixed loss."""
    shape = Model(  # type: ignore[call-arg]
        embedding_dim=settings.embedding_dim, hidden=list(settings.hidden), cross_layers=settings.cross_layers
    )
    model = smooth(build_model(shape, spec, seed=seed))
    optimiser = torch.optim.Adam(model.parameters(), weight_decay=settings.l2)
    order = torch.Generator().manual_seed(seed)
    steps, step, kept = settings.epochs * math.ceil(len(rows) / settings.batch_size), 0, []
    rate = settings.learning_rate
    for epoch in range(1, settings.epochs + 1):
        for part in rows.take(torch.randperm(len(rows), generator=order)).split(settings.batch_size):
            rate = settings.learning_rate * (1 - step / steps)
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad()
            losses(model, part).mean().backward()
            optimiser.step()
            step += 1
        if epoch in settings.checkpoints:
            kept.append((rate, {name: value.detach().clone() for name, value in model.state_dict().items()}))
    return Fit(model.eval(), kept)


@dataclass(frozen=True)
class Kept:
    """Arrays under a folder by a digest of what they were made of."""

    root: Path

    def get(self, what: str, made_of: object, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Those that were kept, or made now and kept."""
        file = self.root / what / f"{digest(made_of)}.npz"
        if not file.exists():
            arrays = make()
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_name(f".{os.getpid()}-{file.name}")
            np.savez(part, **arrays)
            part.replace(file)
        with np.load(file) as found:
            return {name: found[name] for name in found.files}


def made_of(data: Problem, *functions: Callable[..., Any]) -> list[Any]:
    """What every kept array owes to data, settings and code."""
    rows = [data.train, data.held]
    content = hashlib.sha256()
    for batch in rows:
        for tensor in (*batch.inputs.values(), batch.label):
            content.update(tensor.numpy().tobytes())
    settings = asdict(data.settings)
    for irrelevant in ("subsets", "starts", "removal_seeds"):
        settings.pop(irrelevant)
    code = [inspect.getsource(each) for each in (smooth, losses, fit, *functions)]
    return [content.hexdigest(), settings, code, code_digest(*FIT_CODE)]


def retrained(data: Problem, kept: Kept, jobs: Sequence[tuple[Ids, int]], processes: int) -> Floats:
    """Losses of the held rows after a fit on some training rows from a start, [jobs, held rows]."""
    torch.set_num_threads(1)
    base = made_of(data)
    arguments = [(data.settings, kept, base, rows, seed) for rows, seed in jobs]
    if processes == 1:
        return np.stack([_retrain(each) for each in arguments])
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        return np.stack(list(pool.map(_retrain, arguments, chunksize=4)))


def _retrain(arguments: tuple[Settings, Kept, list[Any], Ids, int]) -> Floats:
    settings, kept, base, rows, seed = arguments
    key = [base, hashlib.sha256(rows.tobytes()).hexdigest(), seed]

    def make() -> dict[str, Any]:
        if settings not in _PROBLEMS:
            _PROBLEMS[settings] = problem(settings)
        data = _PROBLEMS[settings]
        found = fit(data.train.take(torch.from_numpy(rows)), data.spec, settings, seed)
        with torch.no_grad():
            return {"losses": losses(found.model, data.held).double().numpy()}

    return kept.get("fits", key, make)["losses"]


_PROBLEMS: dict[Settings, Problem] = {}


# ---------------------------------------------------------------- truth


@dataclass(frozen=True)
class Truth:
    """Random halves of the training rows [subsets, rows / 2], and losses of the held rows [starts, subsets, held]."""

    subsets: Ids
    losses: Floats


def halves(settings: Settings) -> Ids:
    """Random halves of the training rows."""
    draws = np.random.default_rng(0).random((settings.subsets, settings.rows))
    return np.sort(np.argsort(draws, axis=1)[:, : settings.rows // 2], axis=1)


def truth(data: Problem, kept: Kept, processes: int) -> Truth:
    """Fit each half from every start; the first start of all halves comes first."""
    subsets = halves(data.settings)
    jobs = [(rows, start) for start in range(data.settings.starts) for rows in subsets]
    found = retrained(data, kept, jobs, processes)
    return Truth(subsets, found.reshape(data.settings.starts, len(subsets), -1))


def correlations(one: Floats, two: Floats) -> Floats:
    """Spearman's correlation of each column of two arrays [subsets, targets]; 0 where a side does not vary."""
    ranks = [stats.rankdata(each, axis=0) for each in (one, two)]
    a, b = (each - each.mean(axis=0) for each in ranks)
    size = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), size, out=np.zeros(a.shape[1]), where=size > 0)


def lds(scores: Floats, subsets: Ids, found: Floats) -> Floats:
    """Linear datamodelling score of each target (Park et al. 2023).

    Parameters
    ----------
    scores:
        [targets, rows], positive where upweighting the row lowers the target's loss.
    subsets:
        row numbers, [subsets, size].
    found:
        losses of the targets after a fit on each subset, [subsets, targets].

    Returns
    -------
    float64 [targets]
        Spearman's correlation over the subsets between the sum of the scores and the fall of the loss.
    """
    predicted = np.stack([scores[:, rows].sum(axis=1) for rows in subsets])
    return correlations(predicted, -found)


def ceiling(found: Floats) -> tuple[float, float]:
    """How far two retrainings agree, and how well a perfect score could do on the mean over all starts.

    The starts are split into two groups in every way; the correlation r of their means, mean over targets, is that of
    half as many starts. Spearman and Brown give 2 r / (1 + r) for all of them; its square root is the correlation of
    the mean with what it estimates.
    """
    starts = len(found)
    half = starts // 2
    splits = [some for some in combinations(range(starts), half) if 0 in some or starts % 2]
    agreed = []
    for some in splits:
        others = [s for s in range(starts) if s not in some][:half]
        agreed.append(correlations(found[list(some)].mean(axis=0), found[others].mean(axis=0)).mean())
    r = float(np.mean(agreed))
    return r, math.sqrt(2 * r / (1 + r)) if r > 0 else 0.0


# ---------------------------------------------------------------- our scorers

# Each takes a fit, the training rows and groups of target rows, and gives [groups, rows]: what the row does for the
# mean loss of the group, positive where upweighting the row lowers it.

Vector = dict[str, Tensor]
# Multiples of the mean eigenvalue; chosen on rows that are not reported.
DAMPING = {"influence_cg": 2.0, "influence_ekfac": 0.1, "trak": 2.0, "logra": 4.0}
SIZE = 1024  # of a sketch
MEMORY = 8 << 30  # bytes of data that a peer may hold
NEIGHBOURS = 5


def loss_on(batch: Batch) -> Callable[[Tensor], Tensor]:
    """The log-loss of a batch's logits, [N]."""
    return lambda logit: functional.binary_cross_entropy_with_logits(logit, batch.label, reduction="none")


def logit_itself(logit: Tensor) -> Tensor:
    """For gradients of the logit."""
    return logit


def group_gradients(model: nn.Module, groups: Sequence[Batch]) -> list[Vector]:
    """Gradient of each group's mean loss."""
    found = [gradient(model, group.inputs, loss_on(group)) for group in groups]
    return [
        {name: value / len(group) for name, value in each.items()}
        for each, group in zip(found, groups, strict=True)
    ]


def dots(model: nn.Module, rows: Batch, vectors: Sequence[Vector], chunk: int = 50) -> Floats:
    """Inner products of the vectors with every row's loss gradient, [vectors, rows]."""
    engine, parts = Engine(model), []
    for start in range(0, len(vectors), chunk):
        some = Dots({str(k): vector for k, vector in enumerate(vectors[start : start + chunk])})
        parts.append(engine(rows.inputs, loss_on(rows), some)[some.key].double())
    return torch.cat(parts, dim=1).T.numpy()


def gradient_dot(fitted: Fit, train: Batch, groups: Sequence[Batch]) -> Floats:
    """Inner product of loss gradients at the end of the fit (TracIn with one checkpoint)."""
    return dots(fitted.model, train, group_gradients(fitted.model, groups))


def at(fitted: Fit, weights: Vector) -> nn.Module:
    """The model with the weights of a checkpoint."""
    model = copy.deepcopy(fitted.model)
    model.load_state_dict(weights)
    return model


def tracin_cp(fitted: Fit, train: Batch, groups: Sequence[Batch]) -> Floats:
    """Sum over checkpoints of learning rate times inner product (Pruthi et al. 2020)."""
    found = [(rate, at(fitted, weights)) for rate, weights in fitted.checkpoints]
    return sum(rate * dots(model, train, group_gradients(model, groups)) for rate, model in found)  # type: ignore[return-value]


def size_of(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def mean_curvature(model: nn.Module, rows: Batch) -> float:
    """Mean eigenvalue of the mean Gauss-Newton matrix: its trace is a mean of squared norms of logit gradients."""
    result = Engine(model)(rows.inputs, logit_itself, Norms())
    p = torch.sigmoid(result.output)
    trace = (p * (1 - p) * result["squared_norm"]).double().mean()
    return float(trace) / size_of(model)


def influence_cg(
    fitted: Fit, train: Batch, groups: Sequence[Batch], damping: float, iterations: int = 100
) -> Floats:
    """Influence by conjugate gradient on the damped Gauss-Newton matrix (Koh & Liang 2017)."""
    model = fitted.model
    operator = GaussNewton(model, [(train.inputs, loss_on(train))])
    shift = damping * mean_curvature(model, train)
    solved = [
        conjugate_gradient(operator, each, damping=shift, max_iterations=iterations, tolerance=3e-2).x
        for each in group_gradients(model, groups)
    ]
    return dots(model, train, solved)


def influence_ekfac(fitted: Fit, train: Batch, groups: Sequence[Batch], damping: float) -> Floats:
    """Influence by eigenvalue-corrected Kronecker factors of the Fisher matrix (Grosse et al. 2023)."""

    def loss(logit: Tensor) -> Tensor:
        p = torch.sigmoid(logit.detach())
        return (p * (1 - p)).sqrt() * logit  # its gradients have the Fisher matrix as second moment

    engine, factors = Engine(fitted.model), KFAC()
    engine(train.inputs, loss, factors)
    values = EKFAC(factors.basis())
    engine(train.inputs, loss, values)
    vectors = group_gradients(fitted.model, groups)
    return dots(fitted.model, train, [preconditioned(values.basis(), v, damping) for v in vectors])


def sketch(model: nn.Module, batch: Batch, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """A sketch of each row's gradient [N, size], and the residual p - y of each row."""
    some = TensorSketch(SIZE)
    result = Engine(model)(batch.inputs, loss, some)
    return result[some.key].double(), torch.sigmoid(result.output.double()) - batch.label


def whitened(features: Tensor, targets: Tensor, damping: float, parameters: int) -> Tensor:
    """``targets (F^T F / N + damping e I)^-1`` for features F [N, k], with e the mean eigenvalue before sketching.

    A sketch keeps the trace, and has fewer eigenvalues to share it: e is the trace over the number of parameters.
    """
    kernel = features.T @ features / len(features)
    kernel.diagonal().add_(damping * kernel.diagonal().sum() / parameters)
    return torch.linalg.solve(kernel, targets.T).T


def trak(fitted: Fit, train: Batch, groups: Sequence[Batch], damping: float) -> Floats:
    """Sketched logit gradients, whitened, times both residuals (Park et al. 2023).

    A row counts by p (1 - p) in the whitening, as it does in the Gauss-Newton matrix.
    """
    features, residual = sketch(fitted.model, train, logit_itself)
    found = [sketch(fitted.model, group, logit_itself) for group in groups]
    targets = torch.stack([(r.unsqueeze(1) * f).mean(dim=0) for f, r in found])
    p = residual + train.label
    weighed = features * (p * (1 - p)).sqrt().unsqueeze(1)
    return ((whitened(weighed, targets, damping, size_of(fitted.model)) @ features.T) * residual).numpy()


def logra(fitted: Fit, train: Batch, groups: Sequence[Batch], damping: float) -> Floats:
    """Sketched loss gradients against their own second moment (Choe et al. 2024, with another projection)."""
    features, _ = sketch(fitted.model, train, loss_on(train))
    targets = torch.stack([sketch(fitted.model, g, loss_on(g))[0].mean(dim=0) for g in groups])
    return (whitened(features, targets, damping, size_of(fitted.model)) @ features.T).numpy()


def representation(model: nn.Module, batch: Batch) -> Floats:
    """What the last linear layer takes, [N, h]."""
    taken: list[Tensor] = []
    handle = model.output.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].detach()))
    with torch.no_grad():
        model(**batch.inputs)
    handle.remove()
    return taken[0].double().numpy()


def standardised(model: nn.Module, train: Batch, groups: Sequence[Batch]) -> tuple[Floats, list[Floats]]:
    """The representations of training rows and groups, by mean and deviation of the former."""
    rows = representation(model, train)
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    spread[spread == 0] = 1.0
    return (rows - mean) / spread, [(representation(model, g) - mean) / spread for g in groups]


def knn_shapley(fitted: Fit, train: Batch, groups: Sequence[Batch], neighbours: int = NEIGHBOURS) -> Floats:
    """k-NN Shapley in what the last layer takes, mean over each group."""
    rows, targets = standardised(fitted.model, train, groups)
    labels = train.label.numpy()
    return np.stack(
        [
            shapley.knn_shapley(rows, labels, target, group.label.numpy(), neighbours)
            for group, target in zip(groups, targets, strict=True)
        ]
    )


Scorer = Callable[[Fit, Batch, Sequence[Batch]], Floats]
DAMPED: dict[str, Callable[[Fit, Batch, Sequence[Batch], float], Floats]] = {
    "influence_cg": influence_cg,
    "influence_ekfac": influence_ekfac,
    "trak": trak,
    "logra": logra,
}
SIGNED: dict[str, Scorer] = {
    "gradient_dot": gradient_dot,
    "tracin_cp": tracin_cp,
    **{name: partial(function, damping=DAMPING[name]) for name, function in DAMPED.items()},
    "knn_shapley": knn_shapley,
}


def ours(fitted: Fit, train: Batch, groups: Sequence[Batch]) -> dict[str, Floats]:
    """The scores of every signed scorer, [groups, rows] each."""
    return {name: scorer(fitted, train, groups) for name, scorer in SIGNED.items()}


def unsigned(fitted: Fit, train: Batch) -> dict[str, Floats]:
    """Scores that read the training rows alone, [rows] each."""
    result = Engine(fitted.model)(train.inputs, loss_on(train), Norms())
    p = torch.sigmoid(result.output.double())
    found = {
        "loss": result.loss,
        "error": (p - train.label).abs(),
        "entropy": torch.special.entr(p) + torch.special.entr(1 - p),
        "grand": result["squared_norm"].sqrt(),
        "self_influence": torch.zeros(len(train)),
    }
    for rate, weights in fitted.checkpoints:
        norms = Engine(at(fitted, weights))(train.inputs, loss_on(train), Norms())["squared_norm"]
        found["self_influence"] = found["self_influence"] + rate * norms
    return {name: value.double().numpy() for name, value in found.items()}


# ---------------------------------------------------------------- measures

Line = dict[str, Any]


def said(
    measure: str, value: float | None, bar: float | None, holds: bool | None, runs: int, note: str
) -> Line:
    """One line."""
    rounded = None if value is None else round(value, 4)
    return {"measure": measure, "value": rounded, "bar": bar, "holds": holds, "runs": runs, "note": note}


def resampled(values: Floats, draws: int = 4000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of some values."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def span(low: float, high: float, of: str) -> str:
    """An interval in words."""
    return f"95 % interval {low:.4f} to {high:.4f} over {of}"


def one_by_one(batch: Batch) -> list[Batch]:
    """Each row as a group."""
    return list(batch.split(1))


def scored(data: Problem, fitted: Fit, kept: Kept, rows: Batch) -> Iterator[tuple[str, Floats, float]]:
    """Our scorers' names, scores of the training rows for each of some rows, and processor seconds."""
    for name, scorer in SIGNED.items():

        def make(scorer: Scorer = scorer) -> dict[str, Any]:
            began = time.process_time()
            scores = scorer(fitted, data.train, one_by_one(rows))
            return {"scores": scores, "seconds": time.process_time() - began}

        function = scorer.func if isinstance(scorer, partial) else scorer
        key = [made_of(data, function, dots, whitened, sketch), DAMPING.get(name), SIZE, NEIGHBOURS]
        key += [rows.sample_id.tolist(), code_digest("sie_spark.gradients")]
        arrays = kept.get("scores", [name, *key], make)
        yield name, arrays["scores"], float(arrays["seconds"])


@dataclass(frozen=True)
class Outcome:
    """What came of one peer: scores and seconds, or the reason why there are none."""

    package: str
    method: str
    setting: str
    scores: Floats | None
    seconds: float
    reason: str


def peers(data: Problem, fitted: Fit, kept: Kept, limit: int) -> Iterator[Outcome]:
    """Every peer's scores of the training rows for the targets."""
    import attribution_peers as room

    rows, targets = standardised(fitted.model, data.train, [data.targets])
    mean = mean_curvature(fitted.model, data.train)
    functions = {
        f.__name__: inspect.getsource(f) for methods in room.PEERS.values() for f, _ in methods.values()
    }
    shared = inspect.getsource(room)
    for text in functions.values():
        shared = shared.replace(text, "")
    for package, methods in room.PEERS.items():
        for method, (function, damped) in methods.items():
            ours_for_it = DAMPING.get(method, DAMPING["influence_cg"]) * mean
            for damping in (None, ours_for_it) if damped else (None,):
                case = room.Case(
                    copy.deepcopy(fitted.model), fitted.checkpoints, data.train, data.targets, damping,
                    (rows, targets[0]), NEIGHBOURS,
                )  # fmt: skip
                setting = "" if not damped else "its defaults" if damping is None else "our damping"
                key = [made_of(data), package, method, damping, functions[function.__name__], shared, limit]
                yield attempt(
                    kept, key, room, function, case, Outcome(package, method, setting, None, 0, ""), limit
                )


def attempt(
    kept: Kept,
    key: list[Any],
    room: Any,
    function: Callable[..., Floats],
    case: Any,
    named: Outcome,
    limit: int,
) -> Outcome:
    """One peer in a process of its own; what it raises becomes the reason: a peer's fault is not ours to stop at."""
    try:
        key = [*key, version({"pydvl": "pyDVL"}.get(named.package, named.package))]
    except ModuleNotFoundError:
        return replace(named, reason="not installed: see benchmarks/README.md")

    def make() -> dict[str, Any]:
        began = time.monotonic()
        with get_context("spawn").Pool(1, initializer=room.confine, initargs=(MEMORY,)) as pool:
            try:
                scores = pool.apply_async(room.quietly, (function, case)).get(limit)
            except multiprocessing.TimeoutError:
                return {"reason": f"not done after {limit} s", "seconds": limit}
            except Exception as error:
                words = " ".join(str(error).split())[:160]
                return {"reason": f"{type(error).__name__}: {words}", "seconds": time.monotonic() - began}
        return {"scores": scores, "reason": "", "seconds": time.monotonic() - began}

    found = kept.get("peers", key, make)
    return replace(
        named,
        scores=found.get("scores"),
        seconds=float(found["seconds"]),
        reason=str(found["reason"]),
    )


def agreement(data: Problem, fitted: Fit, kept: Kept, true: Truth, limit: int) -> Iterator[Line]:
    """LDS of our scorers and of the peers, and the bars between them."""
    some = data.settings.targets
    found, once = true.losses[:, :, :some].mean(axis=0), true.losses[0, :, :some]
    runs = len(true.subsets)
    single = np.mean([correlations(a, b).mean() for a, b in combinations(true.losses[:, :, :some], 2)])
    half, best = ceiling(true.losses[:, :, :some])
    starts = len(true.losses)
    yield said("LDS ceiling: two retrainings", float(single), None, None, runs,
               f"Spearman of one retraining with another of the same halves, mean of all pairs of {starts} starts "
               f"and {some} targets")  # fmt: skip
    yield said("LDS ceiling: perfect scores", best, None, None, runs,
               f"the truth is the mean of {starts} starts; halves of them agree at {half:.4f}, Spearman-Brown for "
               "all, and its square root for scores without noise")  # fmt: skip

    def score(scores: Floats) -> tuple[Floats, str]:
        values = lds(scores, true.subsets, found)
        first = lds(scores, true.subsets, once).mean()
        return values, f"{span(*resampled(values), f'{some} targets')}; one start alone {first:.4f}"

    own: dict[str, Floats] = {}
    for name, scores, seconds in scored(data, fitted, kept, data.targets):
        own[name], words = score(scores)
        yield said(f"LDS: {name}", float(own[name].mean()), None, None, runs, f"{words}; {seconds:.1f} s")
    theirs: dict[tuple[str, str], Floats] = {}
    for peer in peers(data, fitted, kept, limit):
        title = ", ".join(part for part in (f"LDS: {peer.package} {peer.method}", peer.setting) if part)
        if peer.scores is None:
            yield said(title, None, None, None, 0, peer.reason)
            continue
        if not np.isfinite(peer.scores).all():
            yield said(title, None, None, None, runs, f"its scores are not finite; {peer.seconds:.1f} s")
            continue
        values, words = score(peer.scores)
        yield said(title, float(values.mean()), None, None, runs, f"{words}; {peer.seconds:.1f} s")
        name = (peer.package, peer.method)
        if name not in theirs or values.mean() > theirs[name].mean():
            theirs[name] = values
    for (package, method), values in theirs.items():
        if method in own:
            less = own[method] - values
            low, high = resampled(less)
            yield said(f"LDS of {method}, ours less the better of {package}'s", float(less.mean()), -0.02,
                       low > -0.02, runs, span(low, high, f"{some} targets, paired"))  # fmt: skip
    if theirs:
        first = max(own, key=lambda name: own[name].mean())
        other = max(theirs, key=lambda name: theirs[name].mean())
        less = own[first] - theirs[other]
        yield said("LDS, our best less their best", float(less.mean()), 0.0, bool(less.mean() >= 0), runs,
                   f"{first} less {' '.join(other)}; {span(*resampled(less), f'{some} targets, paired')}")  # fmt: skip


def by_damping(data: Problem, fitted: Fit, true: Truth) -> Iterator[Line]:
    """LDS on the tuning rows for several dampings: where DAMPING comes from."""
    start, some = data.settings.targets, data.settings.tuning
    for name, function in DAMPED.items():
        few = some // 4 if name == "influence_cg" else some
        found = true.losses[:, :, start : start + few].mean(axis=0)
        for damping in (0.1, 0.5, 1.0, 2.0, 4.0, 8.0):
            groups = one_by_one(data.tuning.take(slice(0, few)))
            values = lds(function(fitted, data.train, groups, damping), true.subsets, found)
            yield said(f"LDS on tuning rows: {name}, damping {damping:g}", float(values.mean()), None, None,
                       len(true.subsets), f"x the mean eigenvalue; {few} rows")  # fmt: skip


SHARES = (0.01, 0.05, 0.1)


def removal(data: Problem, fitted: Fit, kept: Kept, processes: int) -> Iterator[Line]:
    """Mean validation loss without the rows that a scorer puts first, less that without random rows."""
    settings, rows = data.settings, data.settings.rows
    seeds = range(settings.removal_seeds)
    scores = {name: scorer(fitted, data.train, [data.validation])[0] for name, scorer in SIGNED.items()}
    scores |= unsigned(fitted, data.train)
    ranked = {name: np.argsort(-value, kind="stable") for name, value in scores.items()}
    jobs: dict[tuple[str, float, int], Ids] = {}
    for seed in seeds:
        jobs["none", 0.0, seed] = np.arange(rows)
        shuffled = np.random.default_rng([seed, 1]).permutation(rows)
        for share in SHARES:
            for name, order in {**ranked, "random": shuffled}.items():
                jobs[name, share, seed] = np.sort(order[round(share * rows) :])
    found = retrained(data, kept, [(left, seed) for (_, _, seed), left in jobs.items()], processes)
    skip = settings.targets + settings.tuning
    loss = dict(zip(jobs, found[:, skip:].mean(axis=1), strict=True))
    curves = {}
    for name in (*ranked, "random"):
        curves[name] = [np.mean([loss["none", 0.0, s] for s in seeds])]
        for share in SHARES:
            values = np.array([loss[name, share, seed] for seed in seeds])
            curves[name].append(values.mean())
            if name == "random":
                yield said(f"validation loss without {share:.0%} at random", float(values.mean()), None, None,
                           len(seeds), f"all rows {curves[name][0]:.4f}")  # fmt: skip
                continue
            less = values - [loss["random", share, seed] for seed in seeds]
            half = t_half(less)
            yield said(f"validation loss without the top {share:.0%} by {name}, less at random",
                       float(less.mean()), 0.0 if name in SIGNED else None,
                       bool(less.mean() - half > 0) if name in SIGNED else None, len(seeds),
                       f"95 % t-interval +-{half:.4f} over seeds of start and random rows")  # fmt: skip
    draw(curves, kept.root / "removal.png")


def t_half(values: Floats) -> float:
    """Half the 95 % t-interval of a mean; infinite for one value."""
    if len(values) < 2:
        return math.inf
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def draw(curves: Mapping[str, Sequence[float]], file: Path) -> None:
    """The curves of removal as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, values in curves.items():
        style = "--" if name == "random" else "-" if name in SIGNED else ":"
        axes.plot([0, *(100 * share for share in SHARES)], values, style, marker=".", label=name)
    axes.set_xlabel("% of rows left out, the highest scores first")
    axes.set_ylabel("validation log-loss")
    axes.legend(fontsize=6, ncols=2)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def flips(data: Problem) -> Iterator[Line]:
    """Which labels were flipped, judged among the rows that carry the same label."""
    from sklearn.metrics import roc_auc_score

    settings = data.settings
    found: dict[tuple[str, str, str], list[float]] = {}
    counts: dict[str, list[str]] = {}
    for seed in range(settings.removal_seeds):
        rng = np.random.default_rng([seed, 2])
        flipped = np.zeros(settings.rows, dtype=bool)
        flipped[rng.permutation(settings.rows)[: settings.rows // 10]] = True
        train = replace_labels(data.train, flipped)
        fitted = fit(train, data.spec, settings, seed)
        scores = {name: -scorer(fitted, train, [data.validation])[0] for name, scorer in SIGNED.items()}
        scores |= unsigned(fitted, train)
        for label, words in ((1, "positives"), (0, "negatives")):
            among = train.label.numpy() == label
            truth_here, size = flipped[among], int(flipped[among].sum())
            counts.setdefault(words, []).append(f"{size} of {int(among.sum())}")
            for name, value in scores.items():
                here = value[among]
                first = np.argsort(-here, kind="stable")[:size]
                found.setdefault((words, "AUROC", name), []).append(roc_auc_score(truth_here, here))
                found.setdefault((words, "F1", name), []).append(float(truth_here[first].mean()))
    for (words, kind, name), values in found.items():
        note = (
            f"flipped {', '.join(counts[words])}; 95 % t-interval +-{t_half(np.array(values)):.4f} over seeds"
        )
        if kind == "F1":
            note += "; as many rows called flipped as are, so precision = recall = F1"
        baseline = np.mean(found[words, kind, "loss"])
        yield said(f"flipped labels among observed {words}, {kind}: {name}", float(np.mean(values)), None, None,
                   len(values), f"plain loss {baseline:.4f}; {note}")  # fmt: skip


def replace_labels(batch: Batch, flipped: NDArray[np.bool_]) -> Batch:
    """The rows with some labels flipped."""
    return replace(batch, label=torch.where(torch.from_numpy(flipped), 1 - batch.label, batch.label))


QUICK = {
    "rows": 2000, "targets": 20, "tuning": 20, "validation": 500, "subsets": 30, "starts": 2, "removal_seeds": 2, "batch_size": 100,
}  # fmt: skip


def main() -> int:
    """Retrain, score, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", default="runs/attribution")
    parser.add_argument("--quick", action="store_true", help="2,000 rows, 30 halves, two starts")
    parser.add_argument("--tune", action="store_true", help="LDS by damping, on rows that nothing else reads")
    parser.add_argument("--peer-limit", type=int, default=600, help="seconds that one peer may take")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    data = problem(Settings(**(QUICK if options.quick else {})))  # type: ignore[arg-type]
    kept = Kept(Path(options.root))
    true = truth(data, kept, options.processes)
    fitted = fit(data.train, data.spec, data.settings, seed=0)
    for lines in (
        by_damping(data, fitted, true) if options.tune else (),
        agreement(data, fitted, kept, true, options.peer_limit),
        removal(data, fitted, kept, options.processes),
        flips(data),
    ):
        for line in lines:
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
