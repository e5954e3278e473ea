"""A small search for the settings of a data set's fits: successive halving, judged on validation rows.

Which settings suit a log cannot be known before it is seen: on one log two passes under-fit, on another the second
one over-fits. The candidates are few and stated, begin with what the configuration says, and are tried by Spark's
workers, each fit in a process of its own. No test row is read (Jamieson & Talwalkar 2016).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from sie_spark.models import Batch, build_model
from sie_spark.models.cache import CACHE
from sie_spark.models.inputs import find_edges
from sie_spark.platform.config import Model, Training
from sie_spark.platform.errors import ModelError, workers
from sie_spark.platform.inputs import InputSpec
from sie_spark.training.intercept import set_output_bias
from sie_spark.training.loop import fit
from sie_spark.training.memory import RowsInMemory, mean_loss, validation_loss

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FIRST_SHARE, FIRST_SURVIVORS = 1 / 3, 4  # the first round sees a part of the sample, and so many go on
PASSES, OTHER_PASSES = 4, (2, 8)
LEAST_UPDATES = 50  # of a pass over the sample
SMALLEST_BATCH = 32
AT_BATCH = 512  # of the learning rates below; at another batch they go by its square root
RESULT = "at int, outcome string"
HOUSE = ("dnn", "deepfm", "dcnv2", "history_attention")
RATES, LINEAR_RATES = (2e-3, 8e-3), (8e-3, 3.2e-2)
# few rows need much of it, many rows hardly any
REGULARISATION: tuple[dict[str, Any], ...] = (
    {"embedding_l2": 3.0, "weight_decay": 0.1},
    {"embedding_l2": 60.0, "weight_decay": 4.0},
)
LINEAR: dict[str, Any] = {"name": "lr", "number_bins": 0}
SHAPES: tuple[dict[str, Any], ...] = (
    {"embedding_dim": 4, "hidden": [32], "number_bins": 0, "wide": True},
    {"embedding_dim": 8, "hidden": [64, 32], "number_bins": 0, "wide": True},
    {"embedding_dim": 16, "hidden": [128, 64], "number_bins": 0},
    {"embedding_dim": 16, "hidden": [128, 64], "number_bins": 16},
)


@dataclass(frozen=True)
class Candidate:
    """Settings of the model and of the fit, each what differs from the configuration."""

    model: dict[str, Any]
    training: dict[str, Any]

    def __hash__(self) -> int:
        return hash(self.words)

    @property
    def words(self) -> str:
        """What differs, in one line."""
        said = {**self.model, **self.training}
        return ", ".join(f"{name}={value}" for name, value in said.items()) or "as configured"


@dataclass(frozen=True)
class Outcome:
    """What a candidate came to on the validation rows.

    Parameters
    ----------
    loss:
        of the best epoch: the mean log-loss; infinite where the fit failed.
    epochs:
        that epoch.
    """

    candidate: Candidate
    rows: int
    loss: float
    epochs: int
    seconds: float
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the report."""
        return {
            **asdict(self.candidate),
            "words": self.candidate.words,
            "rows": self.rows,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "epochs": self.epochs,
            "seconds": self.seconds,
        }


def first_candidates(model: Model, training: Training, rows: int) -> list[Candidate]:
    """The configuration itself, then every shape at two learning rates, hardly and much regularised.

    Of a user's own model the shape stays. The linear model is a shape.

    Parameters
    ----------
    rows:
        of the sample; a pass over it makes at least 50 updates.
    """
    most = max(SMALLEST_BATCH, 2 ** int(math.log2(max(rows / LEAST_UPDATES, 1))))
    batch = min(training.batch_size, most)
    scale = math.sqrt(batch / AT_BATCH)
    shapes = [(shape, RATES) for shape in (SHAPES if model.name in HOUSE else ({},))]
    shapes += [(LINEAR, LINEAR_RATES)] if model.name in HOUSE else []
    return [
        Candidate({}, {} if batch == training.batch_size else {"batch_size": batch}),
        *(
            Candidate(
                shape, {"batch_size": batch, "learning_rate": rate * scale, "epochs": PASSES, **strength}
            )
            for shape, rates in shapes
            for rate in rates
            for strength in REGULARISATION
        ),
    ]


def variations(one: Candidate, model: Model, training: Training) -> list[Candidate]:
    """A candidate with one thing changed: rate, batch, penalties; in a deep model a part of its shape too."""
    fit_of = {**training.model_dump(), **one.training}
    rate, batch = fit_of["learning_rate"], fit_of["batch_size"]
    decay, penalty = fit_of["weight_decay"], fit_of["embedding_l2"]
    changed: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"learning_rate": rate / 2}),
        ({}, {"learning_rate": rate * 2}),
        ({}, {"weight_decay": decay / 4}),
        ({}, {"weight_decay": 4 * decay or 1.0}),
        ({}, {"embedding_l2": penalty / 4}),
        ({}, {"embedding_l2": 4 * penalty or 10.0}),
    ]
    if batch // 2 >= SMALLEST_BATCH:
        changed.append(({}, {"batch_size": batch // 2, "learning_rate": rate / math.sqrt(2)}))
    shape = {**model.model_dump(), **one.model}
    if shape["name"] in HOUSE:
        changed += [
            ({"dropout": 0.3}, {}),
            ({"normalise": not shape["normalise"]}, {}),
            ({"wide": not shape["wide"]}, {}),
            ({"number_bins": 0 if shape["number_bins"] else 16}, {}),
        ]
    made = [Candidate({**one.model, **shape}, {**one.training, **fit_}) for shape, fit_ in changed]
    return [candidate for candidate in dict.fromkeys(made) if candidate != one]


def together_with(one: Candidate, others: Sequence[Candidate]) -> Candidate:
    """A candidate with what several variations of it change; where two change one thing, the first does."""
    model, training = dict(one.model), dict(one.training)
    for other in reversed(others):
        model |= {name: value for name, value in other.model.items() if one.model.get(name) != value}
        training |= {name: value for name, value in other.training.items() if one.training.get(name) != value}
    return Candidate(model, training)


Run = Callable[["TryOne", int], list[tuple[int, str]]]


def in_tasks(spark: SparkSession) -> Run:
    """Every candidate in a Spark task of its own."""

    def run(function: TryOne, number: int) -> list[tuple[int, str]]:
        tasks = spark.range(0, number, 1, number)
        with workers(
            "the search for training settings",
            remedy="mend what the message names, or set training.tune=off",
            otherwise="look at the executors' logs for the task that failed",
        ):
            rows = tasks.mapInArrow(function, RESULT).collect()  # a row a candidate
        return [(int(row[0]), str(row[1])) for row in rows]

    return run


def search(run: Run, sample: Sample, model: Model, training: Training) -> tuple[Candidate, list[Outcome]]:
    """The candidate with the least validation loss, and all outcomes in the order in which they came.

    Parameters
    ----------
    run:
        tries so many candidates and returns their numbers with their outcomes, see :func:`in_tasks`.

    Raises
    ------
    ModelError
        when every candidate failed.
    """
    outcomes: list[Outcome] = []

    def of_sample(tried: Sequence[Candidate], share: float = 1.0) -> list[Outcome]:
        function = TryOne(sample, _settings(model, training, tried), share)
        found = _try(run, function, tried)
        outcomes.extend(found)
        return found

    given, *others = first_candidates(model, training, sample.rows)
    ranked = _best(of_sample([given, *others], FIRST_SHARE))
    if math.isinf(ranked[0].loss):  # of a later round some, or all, may fail: an earlier one stays the best
        raise ModelError(
            f"every candidate of the search failed: {ranked[0].error or 'its loss is not finite'}",
            remedy="mend what the message names, or set training.tune=off",
        )
    first = [outcome.candidate for outcome in ranked]
    linear = [one for one in first if one.model.get("name") == LINEAR["name"]][
        :1
    ]  # on few rows it may be best
    held = of_sample(list(dict.fromkeys([given, *first[:FIRST_SURVIVORS], *linear])))
    best = _best(held)[0]
    varied = of_sample(variations(best.candidate, model, training))
    better = [outcome.candidate for outcome in _best(varied) if outcome.loss < best.loss]
    together = [together_with(best.candidate, some) for some in (better[:2], better) if len(some) > 1]
    best = _best([best, *varied, *of_sample(list(dict.fromkeys(together)))])[0]
    passes = [
        Candidate(best.candidate.model, {**best.candidate.training, "epochs": number})
        for number in OTHER_PASSES
        if number != best.candidate.training.get("epochs", training.epochs)
    ]
    best = _best([best, *of_sample(passes)])[0]
    return best.candidate, outcomes


def _best(tried: Sequence[Outcome]) -> list[Outcome]:
    return sorted(tried, key=lambda outcome: outcome.loss)


def _settings(
    model: Model, training: Training, tried: Sequence[Candidate]
) -> tuple[tuple[dict[str, Any], dict[str, Any]], ...]:
    """The whole settings of each candidate, as plain data."""
    given = model.model_dump(mode="json"), training.model_dump(mode="json")
    return tuple(({**given[0], **one.model}, {**given[1], **one.training}) for one in tried)


def _try(run: Run, function: TryOne, tried: Sequence[Candidate]) -> list[Outcome]:
    """A round."""
    if not tried:
        return []
    rows = run(function, len(tried))
    outcomes = []
    for at, text in sorted(rows):
        outcome = json.loads(text)
        if outcome.get("error"):
            outcome |= {"loss": math.inf, "epochs": 0}
        kept = ("rows", "loss", "epochs", "seconds", "error")
        outcomes.append(Outcome(tried[at], **{name: outcome.get(name, "") for name in kept}))
    return outcomes


@dataclass(frozen=True)
class Sample:
    """A bounded sample of training and validation rows, as a file that workers read once.

    Parameters
    ----------
    uri, digest:
        an Arrow file with the encoded columns and ``validation``, a boolean; the SHA-256 of its bytes.
    rows:
        training rows in it.
    """

    uri: str
    digest: str
    inputs: dict[str, Any]
    rows: int

    def load(self) -> tuple[Batch, Batch]:
        """Training and validation rows."""

        def decode(data: bytes) -> tuple[Batch, Batch]:
            with pa.ipc.open_file(pa.py_buffer(data)) as reader:
                table = reader.read_all()
            spec, seen = InputSpec.from_dict(self.inputs), table.column("validation")
            parts = [Batch.from_arrow(table.filter(mask), spec) for mask in (pc.invert(seen), seen)]
            return parts[0], parts[1]

        return CACHE.get(self.uri, self.digest, decode, kind="search")


@dataclass(frozen=True)
class TryOne:
    """A ``mapInArrow`` function: numbers of candidates in, their outcomes out."""

    sample: Sample
    chosen: tuple[tuple[dict[str, Any], dict[str, Any]], ...]
    share: float

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """One fit a row, on one thread."""
        torch.set_num_threads(1)
        for batch in batches:
            for at in batch.column("id").to_pylist():
                outcome = json.dumps(self.outcome(int(at)))
                yield pa.RecordBatch.from_arrays(
                    [pa.array([at], pa.int32()), pa.array([outcome])], names=["at", "outcome"]
                )

    def outcome(self, at: int) -> dict[str, Any]:
        """Loss, epochs and seconds of a candidate; its error where its loss is not finite."""
        train, validation = self.sample.load()
        rows = train.take(slice(0, max(1, round(len(train) * self.share))))
        settings, began = Training(**self.chosen[at][1]), time.monotonic()
        model = build_model(
            Model(**self.chosen[at][0]), InputSpec.from_dict(self.sample.inputs), seed=settings.seed
        )
        find_edges(model, rows.inputs["dense"])
        rate = float((rows.weight * rows.label).sum() / rows.weight.sum())
        if 0 < rate < 1:
            set_output_bias(model, rows.take(slice(0, 2048)), math.log(rate / (1 - rate)))
        feed = RowsInMemory(rows, batch_size=settings.batch_size, seed=settings.seed)
        said: dict[str, Any] = {"rows": len(rows)}
        try:
            history = fit(
                model,
                feed,
                settings,
                judge=lambda fitted: mean_loss(validation_loss(fitted, validation)),
                mean_weight=float(rows.weight.mean()),
            )
            said |= {"loss": min(history.validation), "epochs": history.best_epoch}
        except ModelError as error:
            said |= {"error": str(error)}
        return {**said, "seconds": time.monotonic() - began}
