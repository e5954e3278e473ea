"""What the catalogue of scores costs, against peers.

    python benchmarks/importance.py [--runs 5]

One JSON line a measure: measure, value, bar, holds, runs, note. Every value is the median over runs of a ratio of
two times taken in turn. Peers (pyDVL) come with the ``bench`` extra; what is not installed is printed with a null
value.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from sie_spark.importance.shapley import knn_shapley

Timed = dict[str, Callable[[], np.ndarray]]


def interleaved(functions: Timed, runs: int) -> dict[str, list[float]]:
    """Processor seconds of each function, taken in turn; one round of warming up is dropped."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(runs + 1):
        for name, function in functions.items():
            began = time.process_time()
            function()
            if round_number:
                times[name].append(time.process_time() - began)
    return times


def emit(
    measure: str, value: float | None, bar: float | None, *, least: bool = False, runs: int, note: str
) -> None:
    holds = None if value is None or bar is None else (value >= bar if least else value <= bar)
    rounded = None if value is None else float(f"{value:.3g}")
    found = {"measure": measure, "value": rounded, "bar": bar, "holds": holds, "runs": runs, "note": note}
    print(json.dumps(found), flush=True)


def knn_against_pydvl(
    runs: int, *, rows: int = 5000, targets: int = 500, width: int = 32, k: int = 10
) -> None:
    """Exact k-NN Shapley values: the same as pyDVL's, and how many times its speed."""
    speed, equal = "k-NN Shapley, 5,000 rows x 500 targets: pyDVL / ours", "k-NN Shapley: difference to pyDVL"
    try:
        from pydvl.valuation.dataset import Dataset
        from pydvl.valuation.methods.knn_shapley import KNNShapleyValuation
    except ImportError as error:
        note = f"skipped: {error}; pip install 'sie-spark[bench]'"
        emit(speed, None, 20.0, least=True, runs=0, note=note)
        return emit(equal, None, 1e-12, runs=0, note=note)
    rng = np.random.default_rng(0)
    train, held_out = rng.normal(size=(rows, width)), rng.normal(size=(targets, width))
    labels, wanted = (rng.random(n) < 0.3 for n in (rows, targets))
    labels, wanted = labels.astype(int), wanted.astype(int)

    def ours() -> np.ndarray:
        return knn_shapley(train, labels, held_out, wanted, k)

    def theirs() -> np.ndarray:
        method = KNNShapleyValuation(
            KNeighborsClassifier(n_neighbors=k), Dataset(held_out, wanted), progress=False
        )
        return np.asarray(method.fit(Dataset(train, labels)).result.values)

    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        gap = float(np.abs(theirs() - ours()).max() / np.abs(ours()).max())
        times = interleaved({"theirs": theirs, "ours": ours}, runs)
    value = median(a / b for a, b in zip(times["theirs"], times["ours"], strict=True))
    note = (
        f"one thread each, {width} dimensions, k = {k}; ours {1e3 * median(times['ours']):.0f} ms,"
        f" pyDVL {1e3 * median(times['theirs']):.0f} ms"
    )
    emit(speed, value, 20.0, least=True, runs=runs, note=note)
    return emit(
        equal, gap, 1e-12, runs=1, note="largest difference of a value, relative to the largest value"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    knn_against_pydvl(options.runs)


if __name__ == "__main__":
    main()
