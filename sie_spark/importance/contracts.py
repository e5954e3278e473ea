"""What a scorer and a fitted artefact are: one file and one registration each, and all share the passes they can.

A scorer reads rows, models and artefacts. An artefact is fitted over rows in a pass of its own before the scores
are made, and may read artefacts fitted before it.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sie_spark.gradients import Measured, Quantity
from sie_spark.models import Batch
from sie_spark.models.objective import BINARY
from sie_spark.models.store import PILOT
from sie_spark.platform.errors import ConfigError

# an artefact: plain arrays by name
State = dict[str, np.ndarray]


@dataclass(frozen=True)
class ModelRef:
    """A fitted model as it travels to workers.

    Parameters
    ----------
    name:
        ``pilot``, ``reference``, or ``reference@2`` for the reference's fit after its second epoch.
    uri, digest:
        the checkpoint and the SHA-256 of its bytes; a worker that finds other bytes refuses them.
    learning_rate:
        mean rate of the epoch that ended with it; 0 where it is not known.
    """

    name: str
    uri: str
    digest: str
    learning_rate: float = 0.0


@dataclass(frozen=True)
class Given:
    """What scorers and fits work from: models by name, artefacts by key."""

    models: Mapping[str, ModelRef]
    states: Mapping[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What the shared pass knows of N rows.

    Parameters
    ----------
    batch:
        the rows; the weight is 1 / sampling_rate, the offset plays no part.
    logits:
        model -> float32 [N].
    measured:
        model -> quantities of ``d logit / d theta``, by key; of the loss they are these times :meth:`slope`,
        for the chain rule's outer factor is a number a row.
    modules:
        model -> module, in eval mode.
    """

    batch: Batch
    logits: Mapping[str, Tensor]
    measured: Mapping[str, Measured] = field(default_factory=dict)
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def probability(self, model: str) -> Tensor:
        """P(label = 1), float32 [N]."""
        return BINARY.predictions(self.logits[model])["label"]

    def slope(self, model: str) -> Tensor:
        """``d loss / d logit = p - y``, float32 [N]."""
        return self.probability(model) - self.batch.label


class Accumulator(ABC):
    """What a worker collects of the rows of its partition for one fit."""

    def quantities(self) -> dict[str, tuple[Quantity, ...]]:
        """Model -> what is to be measured of its gradients."""
        return {}

    @abstractmethod
    def add(self, seen: Seen) -> None:
        """Take in some rows."""

    @abstractmethod
    def state(self) -> State:
        """What was collected, as plain arrays."""


class Fit(ABC):
    """An artefact that is fitted over rows.

    Attributes
    ----------
    version:
        raised with the meaning of the artefact; code and options are part of its digest anyway.
    rows:
        the part of the samples that it reads, ``importance.fit_rows`` of them at most.
    whole:
        whether it reads all rows of the part instead.
    """

    version: ClassVar[int]
    rows: ClassVar[Literal["train", "validation"]]
    whole: ClassVar[bool] = False

    @property
    @abstractmethod
    def key(self) -> str:
        """Its name with its options: equal keys are fitted once."""

    @property
    @abstractmethod
    def models(self) -> tuple[str, ...]:
        """Models whose forward pass it reads."""

    @property
    def after(self) -> tuple[Fit, ...]:
        """Fits that it reads the artefacts of."""
        return ()

    @abstractmethod
    def open(self, given: Given) -> Accumulator:
        """In a worker, for one partition."""

    def merge(self, states: Iterable[State]) -> State:
        """The states of all partitions as one: sums of arrays, or whatever a fit makes of them."""
        total: State = {}
        for state in states:
            for name, values in state.items():
                total[name] = total[name] + values if name in total else values
        return total

    def finish(self, state: State, given: Given) -> State:
        """On the driver: the artefact from the merged state."""
        return state


class Scorer(ABC):
    """One quantity a row: higher = more important.

    Attributes
    ----------
    name:
        of the column: ``score_<name>``.
    version:
        raised with the meaning of the score; code is part of the column's version anyway.
    citation:
        where it comes from.
    uses_label:
        whether the score depends on the label (a weight made from it is then biased).
    signed:
        whether it may be negative; a signed score is positive where upweighting the row lowers validation loss.
    gradient:
        whether it asks for quantities, so that a backward pass is needed.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    citation: ClassVar[str]
    uses_label: ClassVar[bool]
    signed: ClassVar[bool] = False
    gradient: ClassVar[bool] = False

    def models(self, known: Mapping[str, ModelRef]) -> tuple[str, ...]:
        """Models whose forward pass it reads; none for a scorer of features alone.

        Raises
        ------
        ConfigError
            where a model it cannot do without was not kept.
        """
        return (PILOT,)

    def fits(self, known: Mapping[str, ModelRef]) -> tuple[Fit, ...]:
        """Artefacts it reads."""
        return ()

    def quantities(self, given: Given) -> dict[str, tuple[Quantity, ...]]:
        """Model -> what is to be measured of ``d logit / d theta``."""
        return {}

    @abstractmethod
    def score(self, seen: Seen, given: Given) -> Tensor:
        """Scores, float [N]."""


def needed(model: str, known: Mapping[str, ModelRef], scorer: str) -> str:
    """The model's name.

    Raises
    ------
    ConfigError
        where it was not fitted.
    """
    if model not in known:
        raise ConfigError(
            f"importance.scorers: '{scorer}' reads model '{model}', which was not fitted on these samples",
            remedy="set reference.fit=true and run 'sie train' again",
        )
    return model


def state_to_bytes(state: State) -> bytes:
    """An artefact as a file: numpy's zip of arrays, no pickle."""
    buffer = io.BytesIO()
    np.savez(buffer, **state)  # type: ignore[arg-type]
    return buffer.getvalue()


def state_from_bytes(data: bytes) -> State:
    """Inverse of :func:`state_to_bytes`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def tensors(state: State) -> dict[str, Tensor]:
    """The arrays of a state as tensors that share their memory."""
    return {name: torch.from_numpy(values) for name, values in state.items()}
