"""What dattri, captum, kronfluence and pyDVL score on the model, rows and targets of benchmarks/attribution.py.

Every peer takes the same things and gives [targets, rows], positive where upweighting the row lowers the target's
loss. It runs with its documented defaults, and once more with a given damping where it has one and the default is
another. Kronecker factors of kronfluence, pyDVL and dattri, and dattri's LoGra, know linear layers alone: they
leave the embedding table out.
"""

from __future__ import annotations

import contextlib
import io
import resource
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from sie_spark.models import Batch

Floats = NDArray[np.float64]
CHUNK = 1000


@dataclass(frozen=True)
class Case:
    """What a peer is given.

    Attributes
    ----------
    model, checkpoints:
        fitted, and (learning rate, weights) of some passes.
    train, targets:
        rows; each target is a group of its own.
    damping:
        added to the eigenvalues of the mean curvature, or None for the peer's default.
    represented:
        standardised representations of training rows and targets, for neighbours.
    neighbours:
        of a nearest-neighbours classifier.
    """

    model: nn.Module
    checkpoints: list[tuple[float, dict[str, Tensor]]]
    train: Batch
    targets: Batch
    damping: float | None
    represented: tuple[Floats, Floats]
    neighbours: int


class OneInput(nn.Module):
    """The model behind one tensor: ids and numbers side by side. ``two`` gives the logits of both labels."""

    def __init__(self, model: nn.Module, fields: int, *, two: bool = False) -> None:
        super().__init__()
        self.inner, self.fields, self.two = model, fields, two

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 1] or [N, 2]."""
        x = x.reshape(-1, x.shape[-1])  # dattri's LoGra tries one row without a dimension of its own
        logit = self.inner(x[:, : self.fields].long(), x[:, self.fields :]).unsqueeze(1)
        return torch.cat([torch.zeros_like(logit), logit], dim=1) if self.two else logit


def side_by_side(batch: Batch) -> Tensor:
    """Input of :class:`OneInput`."""
    return torch.cat([batch.inputs["cat"].float(), batch.inputs["dense"]], dim=1)


def three(batch: Batch) -> TensorDataset:
    """Ids, numbers, label."""
    return TensorDataset(batch.inputs["cat"], batch.inputs["dense"], batch.label)


# ---------------------------------------------------------------- dattri


def _dattri_task(case: Case, *, checkpoints: Any = None, target: Any = None) -> Any:
    from dattri.task import AttributionTask

    def loss(params: dict[str, Tensor], data: tuple[Tensor, ...]) -> Tensor:
        return functional.binary_cross_entropy_with_logits(*_logit_and_label(case.model, params, data))

    states = [case.model.state_dict()] if checkpoints is None else checkpoints
    return AttributionTask(loss_func=loss, model=case.model, checkpoints=states, target_func=target)


def _logit_and_label(
    model: nn.Module, params: dict[str, Tensor], data: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Of a batch, or of one row without a dimension of its own."""
    cat, dense, label = (each if data[0].dim() == 2 else each.unsqueeze(0) for each in data)
    return functional_call(model, params, (cat, dense)), label


def _dattri_loaders(case: Case, size: int = CHUNK, at_once: int = CHUNK) -> tuple[DataLoader, DataLoader]:
    return DataLoader(three(case.train), batch_size=size), DataLoader(three(case.targets), batch_size=at_once)


def dattri_gradient_dot(case: Case) -> Floats:
    """TracIn with the last weights alone."""
    from dattri.algorithm.tracin import TracInAttributor

    task = _dattri_task(case)
    attributor = TracInAttributor(task=task, weight_list=torch.ones(1), normalized_grad=False)
    attributor.projector_kwargs = None
    return attributor.attribute(*_dattri_loaders(case)).T.detach().double().numpy()


def dattri_tracin_cp(case: Case) -> Floats:
    """TracIn over checkpoints."""
    from dattri.algorithm.tracin import TracInAttributor

    task = _dattri_task(case, checkpoints=[weights for _, weights in case.checkpoints])
    rates = torch.tensor([rate for rate, _ in case.checkpoints])
    attributor = TracInAttributor(task=task, weight_list=rates, normalized_grad=False)
    attributor.projector_kwargs = None
    return attributor.attribute(*_dattri_loaders(case)).T.detach().double().numpy()


def dattri_influence_cg(case: Case) -> Floats:
    """Conjugate gradients on the Hessian of all rows, at most 10 iterations by default.

    It solves anew for each batch of training rows, so that all rows are one batch, and each target another. Its sum
    of results would keep the graph of every target, hence without gradients of what it adds up.
    """
    from dattri.algorithm.influence_function import IFAttributorCG

    attributor = IFAttributorCG(task=_dattri_task(case), regularization=case.damping or 0.0)
    rows, targets = _dattri_loaders(case, len(case.train), at_once=1)
    attributor.cache(rows)
    with torch.no_grad():
        return attributor.attribute(rows, targets).T.double().numpy()


def dattri_arnoldi(case: Case) -> Floats:
    """The Hessian in a Krylov space of 100 dimensions (Schioppa et al. 2022)."""
    from dattri.algorithm.influence_function import IFAttributorArnoldi

    attributor = IFAttributorArnoldi(task=_dattri_task(case), regularization=case.damping or 0.0)
    attributor.cache(_dattri_loaders(case, len(case.train))[0])
    return attributor.attribute(*_dattri_loaders(case)).T.detach().double().numpy()


def dattri_influence_ekfac(case: Case) -> Floats:
    """EK-FAC of the linear layers."""
    from dattri.algorithm.influence_function import IFAttributorEKFAC

    attributor = IFAttributorEKFAC(task=_dattri_task(case), damping=case.damping or 0.0)
    attributor.cache(_dattri_loaders(case)[0])
    return attributor.attribute(*_dattri_loaders(case)).T.detach().double().numpy()


def dattri_trak(case: Case) -> Floats:
    """TRAK with 512 dimensions; its target is the log-odds of the right label, its regularisation not of the mean."""
    from dattri.algorithm.trak import TRAKAttributor

    def log_odds(params: dict[str, Tensor], data: tuple[Tensor, ...]) -> Tensor:
        logit, label = _logit_and_label(case.model, params, data)
        return (logit * (2 * label - 1)).squeeze()

    def right(params: dict[str, Tensor], data: tuple[Tensor, ...]) -> Tensor:
        return torch.sigmoid(log_odds(params, data))

    from dattri.task import AttributionTask

    task = AttributionTask(loss_func=log_odds, model=case.model, checkpoints=[case.model.state_dict()])
    size = sum(p.numel() for p in case.model.parameters())
    attributor = TRAKAttributor(
        task=task,
        correct_probability_func=right,
        projector_kwargs={"proj_type": "normal"},
        # It divides gradients by the root of their length and sums over the rows.
        regularization=(case.damping or 0.0) * len(case.train) / size,
    )
    train, targets = _dattri_loaders(case)
    attributor.cache(train)
    return attributor.attribute(targets).T.double().numpy()


def dattri_logra(case: Case) -> Floats:
    """LoGra of the linear layers, at most 4,096 dimensions a layer."""
    from dattri.algorithm.logra import LoGraAttributor
    from dattri.task import AttributionTask

    # Two logits: for targets it takes the cross-entropy of classes, whatever the task says.
    wrapped = OneInput(case.model, case.train.inputs["cat"].shape[1], two=True)

    def loss(model: nn.Module, batch: tuple[Tensor, ...], device: str) -> Tensor:
        x, label = batch
        return functional.cross_entropy(model(x), label, reduction="sum")

    class Task(AttributionTask):
        """LoGra calls the loss as (model, batch, device); the rest of the task is not asked for it."""

        def __init__(self) -> None:
            self.model, self.original_loss_func, self.original_target_func = wrapped, loss, loss
            self.checkpoints, self.current_checkpoint_idx = [wrapped.state_dict()], 0

    rows, targets = (
        DataLoader(TensorDataset(side_by_side(batch), batch.label.long()), batch_size=CHUNK)
        for batch in (case.train, case.targets)
    )
    attributor = LoGraAttributor(task=Task(), damping=case.damping)
    attributor.cache(rows)
    return np.asarray(attributor.attribute(rows, targets).T, dtype=np.float64)


# ---------------------------------------------------------------- captum


def _captum(case: Case, checkpoints: list[tuple[float, dict[str, Tensor]]]) -> Floats:
    from captum.influence import TracInCP

    wrapped = OneInput(case.model, case.train.inputs["cat"].shape[1])
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for k, held in enumerate(checkpoints):
            files.append(str(Path(folder) / f"{k}.pt"))
            torch.save(held, files[-1])

        def load(model: nn.Module, path: str) -> float:
            rate, weights = torch.load(path, weights_only=True)
            model.inner.load_state_dict(weights)
            return rate

        method = TracInCP(
            wrapped,
            TensorDataset(side_by_side(case.train), case.train.label.unsqueeze(1)),
            files,
            checkpoints_load_func=load,
            loss_fn=nn.BCEWithLogitsLoss(reduction="none"),
            batch_size=CHUNK,
        )
        targets = (side_by_side(case.targets), case.targets.label.unsqueeze(1))
        return method.influence(targets).detach().double().numpy()


def captum_gradient_dot(case: Case) -> Floats:
    """TracInCP with the last weights alone."""
    return _captum(case, [(1.0, case.model.state_dict())])


def captum_tracin_cp(case: Case) -> Floats:
    """TracInCP over checkpoints."""
    return _captum(case, case.checkpoints)


def captum_arnoldi(case: Case) -> Floats:
    """The Hessian in a Krylov space of 50 dimensions (Schioppa et al. 2022)."""
    from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction

    wrapped = OneInput(case.model, case.train.inputs["cat"].shape[1])
    more = {} if case.damping is None else {"hessian_reg": case.damping}
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.pt")
        torch.save(case.model.state_dict(), file)

        def load(model: nn.Module, path: str) -> float:
            model.inner.load_state_dict(torch.load(path, weights_only=True))
            return 1.0

        method = ArnoldiInfluenceFunction(
            wrapped,
            TensorDataset(side_by_side(case.train), case.train.label.unsqueeze(1)),
            file,
            checkpoints_load_func=load,
            loss_fn=nn.BCEWithLogitsLoss(reduction="none"),
            batch_size=CHUNK,
            **more,
        )
        targets = (side_by_side(case.targets), case.targets.label.unsqueeze(1))
        return method.influence(targets).detach().double().numpy()


# ---------------------------------------------------------------- kronfluence


def kronfluence_influence_ekfac(case: Case) -> Floats:
    """EK-FAC of the linear layers; without a damping its heuristic of .1 x the mean eigenvalue of each layer."""
    import copy

    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Clicks(Task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            cat, dense, label = batch
            logit = model(cat, dense)
            if sample:
                with torch.no_grad():
                    label = torch.bernoulli(torch.sigmoid(logit.detach()))
            return functional.binary_cross_entropy_with_logits(logit, label, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    task = Clicks()
    model = prepare_model(copy.deepcopy(case.model), task)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer("clicks", model, task, cpu=True, output_dir=folder, disable_tqdm=True)
        analyzer.fit_all_factors(
            "ekfac",
            three(case.train),
            per_device_batch_size=CHUNK,
            factor_args=FactorArguments(strategy="ekfac"),
            overwrite_output_dir=True,
        )
        analyzer.compute_pairwise_scores(
            "pairs",
            "ekfac",
            three(case.targets),
            three(case.train),
            per_device_query_batch_size=len(case.targets),
            per_device_train_batch_size=CHUNK,
            score_args=ScoreArguments(damping_factor=case.damping),
            overwrite_output_dir=True,
        )
        return analyzer.load_pairwise_scores("pairs")["all_modules"].double().numpy()


# ---------------------------------------------------------------- pyDVL


def _pydvl(case: Case, model: Any, two: bool = False) -> Floats:
    def label(batch: Batch) -> Tensor:
        return batch.label.long() if two else batch.label.unsqueeze(1)

    rows = DataLoader(TensorDataset(side_by_side(case.train), label(case.train)), batch_size=CHUNK)
    model.fit(rows)
    factors = model.influence_factors(side_by_side(case.targets), label(case.targets))
    parts = [model.influences_from_factors(factors, x, y).detach() for x, y in rows]
    return torch.cat(parts, dim=1).double().numpy()


def pydvl_influence_cg(case: Case) -> Floats:
    """Conjugate gradients on its Gauss-Newton operator, all targets at once, at most 50 iterations."""
    from pydvl.influence.torch import CgInfluence
    from pydvl.influence.torch.util import SecondOrderMode

    wrapped = OneInput(case.model, case.train.inputs["cat"].shape[1])
    model = CgInfluence(
        wrapped,
        functional.binary_cross_entropy_with_logits,
        regularization=case.damping or 0.0,
        solve_simultaneously=True,
        maxiter=50,
        warn_on_max_iteration=False,
        second_order_mode=SecondOrderMode.GAUSS_NEWTON,
    )
    return _pydvl(case, model)


def pydvl_nystroem(case: Case) -> Floats:
    """A low-rank sketch of the Hessian, rank 100 (Hataya & Yamada 2023)."""
    from pydvl.influence.torch import NystroemSketchInfluence

    wrapped = OneInput(case.model, case.train.inputs["cat"].shape[1])
    model = NystroemSketchInfluence(
        wrapped,
        functional.binary_cross_entropy_with_logits,
        regularization=case.damping or 1e-3,
        rank=100,
    )
    return _pydvl(case, model)


def pydvl_influence_ekfac(case: Case) -> Floats:
    """EK-FAC of the linear layers: the embedding table is frozen, since it refuses it."""
    import copy

    from pydvl.influence.torch import EkfacInfluence

    wrapped = OneInput(copy.deepcopy(case.model), case.train.inputs["cat"].shape[1], two=True)
    for module in wrapped.modules():
        if isinstance(module, nn.Embedding):
            module.weight.requires_grad_(False)
    model = EkfacInfluence(wrapped, update_diagonal=True, hessian_regularization=case.damping or 0.0)
    return _pydvl(case, model, two=True)


def pydvl_knn_shapley(case: Case) -> Floats:
    """Exact k-NN Shapley values, one target at a time: it gives the mean over its test rows."""
    from pydvl.valuation.dataset import Dataset
    from pydvl.valuation.methods.knn_shapley import KNNShapleyValuation
    from sklearn.neighbors import KNeighborsClassifier

    rows, targets = case.represented
    train = Dataset(rows, case.train.label.numpy().astype(int))
    found = []
    for target, label in zip(targets, case.targets.label.numpy(), strict=True):
        one = Dataset(target[None], np.array([int(label)]))
        model = KNeighborsClassifier(n_neighbors=case.neighbours, algorithm="brute")
        result = KNNShapleyValuation(model, one, progress=False).fit(train).result
        values = np.empty(len(rows))
        values[result.indices] = result.values
        found.append(values)
    return np.stack(found)


# package -> method -> function, and whether the damping plays a part.
PEERS: dict[str, dict[str, tuple[Callable[[Case], Floats], bool]]] = {
    "dattri": {
        "gradient_dot": (dattri_gradient_dot, False),
        "tracin_cp": (dattri_tracin_cp, False),
        "influence_cg": (dattri_influence_cg, True),
        "influence_arnoldi": (dattri_arnoldi, True),
        "influence_ekfac": (dattri_influence_ekfac, True),
        "trak": (dattri_trak, True),
        "logra": (dattri_logra, True),
    },
    "captum": {
        "gradient_dot": (captum_gradient_dot, False),
        "tracin_cp": (captum_tracin_cp, False),
        "influence_arnoldi": (captum_arnoldi, True),
    },
    "kronfluence": {"influence_ekfac": (kronfluence_influence_ekfac, True)},
    "pydvl": {
        "influence_cg": (pydvl_influence_cg, True),
        "influence_nystroem": (pydvl_nystroem, True),
        "influence_ekfac": (pydvl_influence_ekfac, True),
        "knn_shapley": (pydvl_knn_shapley, False),
    },
}


def confine(memory: int) -> None:
    """Begin a process: one thread, and no more bytes of data than these, so that a greedy peer fails alone."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def quietly(function: Callable[[Case], Floats], case: Case) -> Floats:
    """Without what the package prints, which would stand between the JSON lines."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(case)
