"""Which features are worth their place: information, L1 and recursive elimination, with reasons.

Judged on a sample of training rows after every vocabulary and scale is frozen on all of them; the oldest
three quarters fit, the newest quarter judges. The test part is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse, stats
from sklearn.linear_model import LogisticRegression

from sie_spark.features.blocks import Block, sample_blocks
from sie_spark.features.encoder import Encoder
from sie_spark.features.fit import Training
from sie_spark.features.identifiers import IdList
from sie_spark.platform.config import Selection, StartVectors
from sie_spark.platform.errors import DataError

BINS = 20
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # inverse L1 penalties, sparsest first


@dataclass(frozen=True)
class Verdict:
    """What one method says of one feature."""

    feature: str
    method: str
    drop: bool
    value: float
    reason: str


def select(
    training: Training, encoder: Encoder, settings: Selection, start: StartVectors | None = None
) -> tuple[Encoder, dict[str, Any]]:
    """The encoder, without the features voted out when ``settings.apply``, and a report.

    Parameters
    ----------
    start:
        start vectors that are fitted afterwards; the two categories they are of stay.

    Returns
    -------
    encoder, report
        report: ``rows``, ``verdicts`` (feature, method, drop, value, reason), ``dropped`` (name -> reasons),
        ``kept_despite`` (name -> why a vote was overruled), ``applied``.
    """
    blocks, labels = sample_blocks(training, encoder, settings.rows)
    verdicts = judge(blocks, labels, settings)
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.drop:
            reasons.setdefault(verdict.feature, []).append(f"{verdict.method}: {verdict.reason}")
    voted = {
        name
        for name, against in reasons.items()
        if len(against) >= min(settings.votes, len(settings.methods))
    }
    saved = _saved(encoder, voted, settings, start)
    dropped = {name: reasons[name] for name in reasons if name in voted and name not in saved}
    if settings.apply and dropped:
        encoder = replace(encoder, features=tuple(f for f in encoder.features if f.name not in dropped))
    report = {
        "rows": len(labels),
        "applied": settings.apply,
        "dropped": dropped,
        "kept_despite": saved,
        "verdicts": [vars(verdict) for verdict in verdicts],
    }
    return encoder, report


def _saved(
    encoder: Encoder, voted: set[str], settings: Selection, start: StartVectors | None
) -> dict[str, str]:
    reasons = dict.fromkeys([start.user, start.item], "named in dataset.start_vectors") if start else {}
    reasons |= dict.fromkeys(settings.keep, "named in dataset.selection.keep")
    saved = {name: reason for name, reason in reasons.items() if name in voted}
    if not saved and all(feature.name in voted for feature in encoder.features):
        saved[encoder.features[0].name] = "a model needs one input"
    # last: a category is needed by what is kept, whatever it is kept for
    for feature in encoder.features:
        shares = feature.shares if isinstance(feature, IdList) else None
        if shares in voted - set(saved) and feature.name not in voted - set(saved):
            saved[str(shares)] = f"'{feature.name}' uses its ids"
    return saved


def judge(blocks: Sequence[Block], labels: np.ndarray, settings: Selection) -> list[Verdict]:
    """Every configured method's verdicts, features in their order.

    Raises
    ------
    DataError
        when one side of the sample has labels of one class.
    """
    cut = len(labels) * 3 // 4
    for part in (labels[:cut], labels[cut:]):
        if part.min(initial=1.0) == part.max(initial=0.0):
            raise DataError(
                f"selection: {len(part):,} sampled training rows have labels of one class",
                remedy="raise dataset.selection.rows, or set dataset.selection.methods=[]",
            )
    methods: dict[str, Callable[[], list[Verdict]]] = {
        "information": lambda: [_by_information(block, labels, settings.significance) for block in blocks],
        "l1": lambda: _by_l1(blocks, labels, cut),
        "recursive": lambda: _by_elimination(blocks, labels, cut),
    }
    return [verdict for method in settings.methods for verdict in methods[method]()]


def mutual_information(codes: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mutual information of a discrete value with a 0/1 label, and the p value of its G-test.

    For a discrete value this is the information gain of a tree's split on it. Bias-corrected (Miller 1955):
    the plug-in estimate exceeds the truth by (values - 1) / 2N on average.

    Returns
    -------
    nats (may be slightly negative), p value under independence.
    """
    _, codes = np.unique(codes, return_inverse=True)
    table = np.zeros((codes.max() + 1, 2))
    np.add.at(table, (codes, labels.astype(np.int64)), 1.0)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
    seen = table > 0
    plug_in = float((table[seen] * np.log(table[seen] / expected[seen])).sum() / table.sum())
    freedom = len(table) - 1
    if freedom == 0:
        return 0.0, 1.0
    return plug_in - freedom / (2 * table.sum()), float(stats.chi2.sf(2 * table.sum() * plug_in, freedom))


def _codes(block: Block) -> list[np.ndarray]:
    """Discrete views of a block; sparse ids and fine numbers are grouped so that the G-test holds."""
    if not block.is_ids:
        views = []
        for column in block.values.T:
            edges = np.unique(np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1]))
            # below, at and above each edge apart: a flag that is rarely set has its common value as only edge
            views.append(np.searchsorted(edges, column, "left") + np.searchsorted(edges, column, "right"))
        return views
    hits = block.columns().toarray()
    if block.values.shape[1] == 1:  # one id a row: frequent ids, and all others together
        return [hits @ np.arange(1, hits.shape[1] + 1)]
    return list(hits.T)


def _by_information(block: Block, labels: np.ndarray, significance: float) -> Verdict:
    views = [mutual_information(codes, labels) for codes in _codes(block)]
    nats, p = max(views)[0], min(1.0, min(view[1] for view in views) * len(views))  # Bonferroni over views
    drop = p > significance
    reason = f"{max(nats, 0.0):.2g} nats about the label, " + (
        f"no more than chance gives (p = {p:.2g})" if drop else f"p = {p:.2g}"
    )
    return Verdict(block.name, "information", drop, max(nats, 0.0), reason)


def _loss(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, logits) - labels * logits


def _design(blocks: Sequence[Block]) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Columns of all blocks, and the number of the block each belongs to."""
    parts = [block.columns() for block in blocks]
    owner = np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])
    return sparse.hstack(parts).tocsr(), owner


def _by_l1(blocks: Sequence[Block], labels: np.ndarray, cut: int) -> list[Verdict]:
    """Lasso-penalised logistic regression (Tibshirani 1996), the sparsest within one standard error.

    The penalty that predicts best keeps some noise, so each feature enters a second time with its rows
    shuffled (Kursa & Rudnicki 2010), and one that moves the logit no more than the best of these goes.
    """
    real, owner = _design(blocks)
    shuffled = real[np.random.default_rng(0).permutation(real.shape[0])]
    design = sparse.hstack([real, shuffled]).tocsr()
    models, losses = [], []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, l1_ratio=1.0, solver="liblinear", random_state=0, max_iter=200)
        models.append(model.fit(design[:cut], labels[:cut]))
        losses.append(_loss(model.decision_function(design[cut:]), labels[cut:]))
    best = min(losses, key=np.mean)
    weights = models[next(at for at, loss in enumerate(losses) if _as_good(loss, best))].coef_[0]

    def moves(matrix: sparse.csr_matrix, part: np.ndarray) -> list[float]:
        return [float(np.std(matrix[:, owner == one] @ part[owner == one])) for one in range(len(blocks))]

    mine, chance = moves(real, weights[: real.shape[1]]), max(moves(shuffled, weights[real.shape[1] :]))
    return [
        Verdict(
            block.name,
            "l1",
            size <= chance,
            size,
            f"moves the logit by {size:.2g} (sd); the best shuffled feature by {chance:.2g}",
        )
        for block, size in zip(blocks, mine, strict=True)
    ]


def _as_good(loss: np.ndarray, best: np.ndarray) -> bool:
    """Not worse than the best by more than one standard error of the paired difference."""
    difference = loss - best
    return bool(difference.mean() <= difference.std() / np.sqrt(len(difference)))


def _by_elimination(blocks: Sequence[Block], labels: np.ndarray, cut: int) -> list[Verdict]:
    """Recursive feature elimination (Guyon et al. 2002), a feature's columns together, judged on newer rows.

    At each step the feature whose contribution to the logit costs least when it is flattened goes; the
    smallest set within one standard error of the best hold-out loss stays.
    """
    design, owner = _design(blocks)
    left = list(range(len(blocks)))
    steps: list[tuple[list[int], np.ndarray]] = []
    while left:
        columns = np.isin(owner, left)
        model = LogisticRegression(C=0.1, max_iter=300).fit(design[:cut][:, columns], labels[:cut])
        held, mine = design[cut:][:, columns], owner[columns]
        logits = model.decision_function(held)
        steps.append((list(left), _loss(logits, labels[cut:])))
        costs = []
        for one in left:
            part = held[:, mine == one] @ model.coef_[0][mine == one]
            costs.append(_loss(logits - part + part.mean(), labels[cut:]).mean())
        left.pop(int(np.argmin(costs)))
    best = min((loss for _, loss in steps), key=np.mean)
    kept = next(names for names, loss in reversed(steps) if _as_good(loss, best))
    place = {one: len(blocks) - at for at, one in enumerate(_order(steps))}
    verdicts = []
    for one, block in enumerate(blocks):
        drop = one not in kept
        reason = f"place {place[one]} of {len(blocks)} in the order of elimination" + (
            ": newer rows are predicted as well without it" if drop else ""
        )
        verdicts.append(Verdict(block.name, "recursive", drop, float(place[one]), reason))
    return verdicts


def _order(steps: Sequence[tuple[list[int], np.ndarray]]) -> list[int]:
    """Features in the order they went, the best one last."""
    lists = [names for names, _ in steps] + [[]]
    return [(set(now) - set(later)).pop() for now, later in pairwise(lists)]
