"""Linear classifiers of the label, by scikit-learn on a sample of training rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from sie_spark.importance.contracts import Fit, Given, Seen, State
from sie_spark.importance.design import Design, mean_one, sample_inputs
from sie_spark.importance.fits.row_sample import RowSample
from sie_spark.platform.errors import DataError

ITERATIONS = 1000  # at most


@dataclass(frozen=True)
class LinearModel(Fit):
    """``theta`` float64 [width] and ``intercept``, over the columns of :class:`Design`, which lie beside them.

    Parameters
    ----------
    kind:
        ``logistic``: log-loss, summed over rows by weight (of mean 1), and ``|theta|^2 / 2``. ``svm``: squared hinge
        loss and the same penalty, with both classes of the same total weight. Where a few rows in a hundred are
        clicks a plain SVM finds nothing: to call every row a non-click is nearly right, and its boundary lies outside
        the data. With classes of equal weight it lies between them.
    sample_rows:
        setting ``importance.sample_rows``.
    """

    kind: Literal["logistic", "svm"]
    sample_rows: int

    name: ClassVar[str] = "linear_model"
    rows: ClassVar[Literal["train", "validation"] | None] = None

    def after(self) -> tuple[Fit, ...]:
        """The sample."""
        return (RowSample("train", self.sample_rows),)

    def finish(self, state: State, given: Given) -> State:
        """On the driver, on one thread.

        Raises
        ------
        DataError
            where the sample has one label only.
        """
        sample = given.states[self.after()[0].key]
        labels, weight = two_labels(sample), mean_one(sample["weight"])
        design = Design.fit(given.inputs, sample)
        model = LogisticRegression(max_iter=ITERATIONS)
        if self.kind == "svm":
            model = LinearSVC(dual=False, max_iter=ITERATIONS)
            share = np.average(labels, weights=weight)
            weight /= 2 * np.where(labels, share, 1 - share)
        with threadpool_limits(1):
            model.fit(design(sample_inputs(sample)), labels, sample_weight=weight)
        return design.state() | {"theta": model.coef_[0], "intercept": np.array(model.intercept_[0])}

    def values(self, seen: Seen, given: Given) -> np.ndarray:
        """``theta . x + intercept`` of rows of a pass, float64 [N]."""
        state = given.states[self.key]
        design = given.once(("design", self.key), lambda: Design.of_state(given.inputs, state))
        inputs = {name: found.numpy() for name, found in seen.batch.inputs.items()}
        return design(inputs) @ state["theta"] + float(state["intercept"])


def two_labels(sample: State) -> np.ndarray:
    """The labels of a sample, bool [n].

    Raises
    ------
    DataError
        where they are all the same.
    """
    labels = sample["label"] > 0.5
    if labels.all() or not labels.any():
        raise DataError(
            f"all {len(labels)} sampled training rows have label {int(labels[0])}, and classical scores learn to tell"
            " two labels apart",
            remedy="raise importance.sample_rows until the sample has both, or leave these scores out of importance.scorers",
        )
    return labels
