"""What a scorer is, and the list of them: one file a scorer, several share one forward and backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from sie_spark.platform.registry import Registry


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

SCORERS: Registry[Scorer] = Registry(
    "scorer", "scorers", setting="importance.scorers", home="sie_spark.importance.scorers"
)


def register_scorer(cls: type[S]) -> type[S]:
    """Make a scorer available as ``importance.scorers: [<name>]``."""
    instance = cls()
    SCORERS.register(instance.name, instance)
    return cls
