"""Every way to say how much is kept, as a share of the rows; and which share small fits recommend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sie_spark.platform.config import Training
from sie_spark.platform.config.budget import seconds_of
from sie_spark.platform.errors import ConfigError
from sie_spark.training.budget import budgeted, cost
from sie_spark.training.trial import Trial

FIRST = (0.1, 0.3)  # shares that are tried first
LEAST, MOST = 0.02, 0.5  # a smaller one has hardly a row of every id, a larger one saves no time
SHARES = np.unique(np.round(np.geomspace(LEAST, 1.0, 60), 3))
TOO_WIDE = 2.0  # standard error of a trial, in margins, beyond which nothing can be concluded


@dataclass(frozen=True)
class FullFit:
    """What the fit on all rows took: its rows, settings and seconds."""

    rows: int
    training: Training
    seconds: float

    def seconds_at(self, share: float) -> float:
        """What a fit on a share of the rows would take, by the cost of its updates."""
        rows = max(1, round(share * self.rows))
        subset = budgeted(self.training, rows, self.rows)
        parts = (
            cost(number * settings.epochs / settings.batch_size, settings.batch_size)
            for number, settings in ((rows, subset), (self.rows, self.training))
        )
        one, whole = parts
        return self.seconds * one / whole


def share_of(budget: float | str, rows: int, full: FullFit | None) -> float:
    """A budget that is a share, a number of rows or a time, as a share of the rows.

    Raises
    ------
    ConfigError
        for a time where no fit on all rows was measured, or one that no share is fitted in.
    """
    seconds = seconds_of(budget)
    if seconds is None:
        return float(budget) if float(budget) <= 1 else min(1.0, float(budget) / max(rows, 1))
    if full is None:
        raise ConfigError(
            f"weighting.budget: '{budget}' is reckoned from the time of the reference model, which was not fitted",
            remedy="set reference.fit=true and run 'sie train', or give a share or a number of rows",
        )
    able = [share for share in SHARES if full.seconds_at(share) <= seconds]
    if not able:
        raise ConfigError(
            f"weighting.budget: a fit on {LEAST:.0%} of the rows takes about {full.seconds_at(LEAST):.0f} s, more than"
            f" '{budget}'",
            remedy="give more time, lower training.cost_cap, or give a share",
        )
    return float(max(able))


@dataclass(frozen=True)
class Choice:
    """The share to keep, and why.

    Parameters
    ----------
    share:
        1 where no smaller one is recommended.
    predicted:
        AUC that it is predicted to lose.
    words:
        one sentence for people.
    seconds:
        that the trials took.
    """

    share: float
    predicted: float
    words: str
    trials: list[Trial] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the report."""
        return {
            "share": self.share,
            "predicted_loss": self.predicted,
            "words": self.words,
            "seconds": self.seconds,
            "trials": [trial.as_dict() for trial in self.trials],
        }


def choose(attempt: Callable[[Sequence[float]], list[Trial]], margin: float, *, most: float = MOST) -> Choice:
    """The least share that is not shown to lose more AUC than the margin, from three small fits.

    A share will do where its loss less one standard error is within the margin (the one-standard-error rule of
    Breiman et al. 1984): on few validation rows a loss as small as the margin can never be shown to be one. Where its
    error is larger than two margins nothing is concluded. Two shares are tried first; the third is where the answer
    is expected, so that it is looked at and not only reckoned. Between trials the loss is interpolated in the
    logarithm of the share, never rising, and nothing is lost at all rows.

    Parameters
    ----------
    attempt:
        fits at some shares; judged on validation rows alone.
    margin:
        ``evaluation.margin``.
    most:
        the greatest share that can be tried.
    """
    scale = min(1.0, most / FIRST[1])
    trials = attempt([share * scale for share in FIRST])
    wanted = _least(trials, margin)
    if wanted is None or wanted > most:
        wanted = most
    elif wanted <= trials[0].share:
        wanted = max(LEAST * scale, trials[0].share / 2)
    trials += attempt([wanted]) if all(abs(wanted / trial.share - 1) > 0.1 for trial in trials) else []
    trials.sort(key=lambda trial: trial.share)
    share = _least(trials, margin)
    shown = trials[0].share if scale < 1 else FIRST[0]
    if share is not None and _error(trials, share) > TOO_WIDE * margin:
        words = (
            f"Keep all rows: the validation rows are too few to tell a loss of {margin:g} AUC"
            f" (standard error {_error(trials, share):.4f})"
        )
        return Choice(1.0, 0.0, words, trials)
    if share is None or share > most:
        cost = max(_curve(trials, shown), 0.0)
        return Choice(1.0, 0.0, f"Keep all rows: {shown:.1%} of them costs about {cost:.4f} AUC here", trials)
    predicted = _curve(trials, share)
    words = (
        f"Keep {share:.1%} of the rows: predicted to cost {max(predicted, 0):.4f} +- {_error(trials, share):.4f} AUC,"
        f" at a margin of {margin:g}"
    )
    return Choice(share, predicted, words, trials)


def _least(trials: Sequence[Trial], margin: float) -> float | None:
    """The least share, not below those tried, that will do; None where only all rows do."""
    shares = SHARES[(min(trial.share for trial in trials) - 1e-9 <= SHARES) & (SHARES < 1)]
    for share in np.unique([*shares, *(trial.share for trial in trials)]):
        if _curve(trials, share) - _error(trials, share) <= margin:
            return float(share)
    return None


def _curve(trials: Sequence[Trial], share: float) -> float:
    """Loss at a share: through the trials, made never to rise with the share, and 0 at all rows."""
    ordered = sorted(trials, key=lambda trial: trial.share)
    losses = _never_rising(np.array([trial.loss for trial in ordered] + [0.0]))
    return float(np.interp(np.log(share), np.log([*(trial.share for trial in ordered), 1.0]), losses))


def _error(trials: Sequence[Trial], share: float) -> float:
    """Standard error of the loss at a share, between those of the trials beside it."""
    ordered = sorted(trials, key=lambda trial: trial.share)
    errors = [trial.error for trial in ordered] + [0.0]
    return float(np.interp(np.log(share), np.log([*(trial.share for trial in ordered), 1.0]), errors))


def _never_rising(losses: np.ndarray) -> np.ndarray:
    """The nearest sequence that never rises, by pooling neighbours that do."""
    blocks: list[list[float]] = []
    for loss in losses:
        blocks.append([float(loss), 1.0])
        while len(blocks) > 1 and blocks[-1][0] > blocks[-2][0]:
            (two, count_two), (one, count_one) = blocks.pop(), blocks.pop()
            total = count_one + count_two
            blocks.append([(one * count_one + two * count_two) / total, total])
    return np.concatenate([np.full(int(count), value) for value, count in blocks])
