"""What a scorer and a fitted artefact are: one file and one registration each, and all share the passes they can.

A scorer reads rows, models and artefacts. An artefact is fitted over rows in a pass of its own before the scores
are made, and may read artefacts fitted before it.
"""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sie_spark.gradients import Measured, Quantity
from sie_spark.importance.last_layer import watching_last_layer, with_constant
from sie_spark.models import Batch
from sie_spark.models.objective import BINARY
from sie_spark.models.store import PILOT
from sie_spark.platform.config.stages import Importance
from sie_spark.platform.errors import ConfigError
from sie_spark.platform.inputs import InputSpec

# an artefact: plain arrays by name
State = dict[str, np.ndarray]
Use = Literal["subsample", "weight", "clean", "audit"]
T = TypeVar("T")
LONGEST = 100  # characters of a key: it names a folder


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


def defaults() -> Importance:
    """Section ``importance`` as it is where nothing is set."""
    return Importance.model_validate({})


@dataclass(frozen=True)
class Given:
    """What scorers and fits work from.

    Parameters
    ----------
    models:
        those that there are, by name.
    states:
        artefacts by key of their fit; empty while the passes are being planned.
    settings:
        section ``importance``.
    inputs:
        what the encoder promises of the rows.
    """

    models: Mapping[str, ModelRef]
    states: Mapping[str, State] = field(default_factory=dict)
    settings: Importance = field(default_factory=defaults)
    inputs: InputSpec = field(default_factory=InputSpec)
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` makes, made at the first call with this key: for what is laid out of an artefact."""
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found


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
    watched:
        model -> what its last layer was given, of those that only ran forward.
    """

    batch: Batch
    logits: Mapping[str, Tensor]
    measured: Mapping[str, Measured] = field(default_factory=dict)
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    watched: Mapping[str, list[Tensor]] = field(default_factory=dict)
    _known: dict[tuple[str, str], Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def probability(self, model: str) -> Tensor:
        """P(label = 1), float32 [N]."""
        return BINARY.predictions(self.logits[model])["label"]

    def slope(self, model: str) -> Tensor:
        """``d loss / d logit = p - y``, float32 [N]."""
        return self.probability(model) - self.batch.label

    def last_inputs(self, model: str) -> Tensor:
        """``[h, 1]``: what the last layer is given, float64 [N, width + 1].

        It comes from the pass itself; where that was a backward pass too, from one more forward pass.

        Raises
        ------
        ModelError
            see :func:`~sie_spark.importance.last_layer.with_constant`.
        """
        key = ("last_inputs", model)
        if key not in self._known:
            module, seen = self.modules[model], self.watched.get(model)
            if seen is None:
                with torch.inference_mode(), watching_last_layer(module) as seen:
                    module(**self.batch.inputs)
            self._known[key] = with_constant(seen, module)
        return self._known[key]

    def score(self, scorer: Scorer, given: Given) -> Tensor:
        """The scores of another scorer whose models and quantities are part of the pass, [N]; computed once."""
        key = ("score", scorer.name)
        if key not in self._known:
            self._known[key] = scorer.score(self, given)
        return self._known[key]


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
    """An artefact that is fitted over rows; its options are the fields of a frozen dataclass.

    Attributes
    ----------
    name:
        the first part of its key.
    version:
        raised with the meaning of the artefact; code and options are part of its digest anyway.
    rows:
        the part of the samples that it reads; None for one that is made of other artefacts on the driver alone.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    rows: ClassVar[Literal["train", "validation"] | None]

    @property
    def key(self) -> str:
        """Its name with its options, as it stands in a path: equal keys are fitted once."""
        options: list[str] = []
        if is_dataclass(self):
            options = [_text(getattr(self, option.name), option.name) for option in fields(self)]
        whole = "-".join([self.name, *filter(None, options)])
        if len(whole) <= LONGEST:
            return whole
        return f"{self.name}-{hashlib.sha256(whole.encode()).hexdigest()[:16]}"

    def models(self) -> tuple[str, ...]:
        """Models whose forward pass it reads."""
        return ()

    def after(self) -> tuple[Fit, ...]:
        """Fits that it reads the artefacts of."""
        return ()

    def most(self, settings: Importance) -> int | None:
        """Rows that it reads at most, those of smallest hash; None for all of the part."""
        return settings.fit_rows

    def open(self, given: Given) -> Accumulator:
        """In a worker, for one partition."""
        raise NotImplementedError(f"{self.key} reads no rows")

    def merge(self, states: Iterable[State]) -> State:
        """The states of all partitions as one: sums of arrays, or whatever a fit makes of them."""
        total: State = {}
        for state in states:
            for name, values in state.items():
                total[name] = np.asarray(total[name] + values) if name in total else values
        return total

    def finish(self, state: State, given: Given) -> State:
        """On the driver: the artefact from the merged state; of a fit without rows that is empty."""
        return state

    def cautions(self, state: State) -> list[str]:
        """What a user should know of an artefact before its scores are believed, a sentence each."""
        return []


def _text(option: object, name: str = "") -> str:
    if isinstance(option, bool):
        return name if option else ""
    if isinstance(option, tuple):
        return "+".join(map(_text, option))
    return option.key if isinstance(option, Fit) else str(option)


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
    uses:
        the decisions it is good for; a policy that asks for another is refused or warned of.
    reads:
        what it needs beside the rows, in words.
    cost:
        of the score pass in units of a training step on as many rows, in words; measured by
        ``benchmarks/importance.py``.
    options:
        settings of section ``importance`` that its values depend on.
    uses_label:
        whether the score depends on the label (a weight made from it is then biased).
    signed:
        whether it may be negative. Of one that is used for an audit, positive means that upweighting the row
        lowers validation loss.
    gradient:
        whether it asks for quantities, so that a backward pass is needed.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    citation: ClassVar[str]
    uses: ClassVar[tuple[Use, ...]]
    reads: ClassVar[str]
    cost: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    uses_label: ClassVar[bool]
    signed: ClassVar[bool] = False
    gradient: ClassVar[bool] = False

    def models(self, given: Given) -> tuple[str, ...]:
        """Models whose forward pass it reads; none for a scorer of features alone.

        Raises
        ------
        ConfigError
            where a model it cannot do without was not kept.
        """
        return (PILOT,)

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """Artefacts it reads."""
        return ()

    def quantities(self, given: Given) -> dict[str, tuple[Quantity, ...]]:
        """Model -> what is to be measured of ``d logit / d theta``."""
        return {}

    def goes_backward(self, given: Given) -> bool:
        """Whether it asks for quantities."""
        return self.gradient

    @abstractmethod
    def score(self, seen: Seen, given: Given) -> Tensor:
        """Scores, float [N]."""


def needed(model: str, given: Given, scorer: str) -> str:
    """The model's name.

    Raises
    ------
    ConfigError
        where it was not fitted.
    """
    if model not in given.models:
        raise ConfigError(
            f"importance.scorers: '{scorer}' reads model '{model}', which was not fitted on these samples",
            remedy="set reference.fit=true and run 'sie train' again",
        )
    return model


def damping_of(given: Given, usual: float) -> float:
    """``importance.damping``, or what a scorer takes where it is not set; in units of the mean eigenvalue."""
    return usual if given.settings.damping is None else given.settings.damping


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
    """The arrays of a state as tensors that share their memory, without those that only say how it was made (``_...``)."""
    return {name: torch.from_numpy(values) for name, values in state.items() if not name.startswith("_")}
