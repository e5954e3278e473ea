"""What a scorer is, and the list of them: one file a scorer, several share one forward and backward pass."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from sie_spark.platform.errors import ConfigError


@dataclass(frozen=True)
class Backward:
    """What the shared pass knows of N rows; the log-odds offset plays no part in it.

    Parameters
    ----------
    logit, probability, label:
        float32 [N]; probability = sigmoid(logit).
    logit_grad_norm:
        ``||d logit / d theta||`` over all parameters, float32 [N]; always there: the weights' policies read it too.
    """

    logit: Tensor
    probability: Tensor
    label: Tensor
    logit_grad_norm: Tensor


class Scorer(Protocol):
    """One quantity a row.

    Attributes
    ----------
    name:
        of the column: ``score_<name>``.
    uses_label:
        whether the score depends on the label (a weight made from it is then biased).
    """

    name: str
    uses_label: bool

    def score(self, backward: Backward) -> Tensor:
        """Scores, float [N]."""
        ...


S = TypeVar("S", bound=Scorer)
SCORERS: dict[str, Scorer] = {}


def register_scorer(cls: type[S]) -> type[S]:
    """Make a scorer available as ``importance.scorers: [<name>]``."""
    instance = cls()
    SCORERS[instance.name] = instance
    return cls


def scorer(name: str) -> Scorer:
    """A scorer by name.

    Raises
    ------
    ConfigError
        for a name that is not registered.
    """
    _import_all()
    if name not in SCORERS:
        near = difflib.get_close_matches(name, SCORERS, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ConfigError(
            f"importance.scorers: unknown scorer '{name}'",
            remedy=f"{hint}scorers: {', '.join(sorted(SCORERS))}",
        )
    return SCORERS[name]


def _import_all() -> None:
    import sie_spark.importance.scorers as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
