"""What the catalogue of scores costs, against plain torch, training steps and peers.

    python benchmarks/importance.py [--runs 5] [--rows 400000] [--only stage,steps,distilled,neighbours]

One JSON line a measure: measure, value, bar, holds, runs, note. Every value is the median over runs of a ratio of
two processor times taken in turn, of all processes that take part. The model is a DCN-v2 of 16
categories and 6 numbers with a 256-128 perceptron, fitted for a pass on generated clicks. Peers (pyDVL) come with the ``bench`` extra; what is not installed is printed with a null value.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional

from sie_spark.gradients import Dots, Engine, Norms, gradient
from sie_spark.importance import SCORERS, Given, ModelRef
from sie_spark.importance.contracts import State, defaults
from sie_spark.importance.frames import score_rows
from sie_spark.importance.plan import make_plan
from sie_spark.importance.shapley import knn_shapley
from sie_spark.importance.worker import Loaded, Pass, ScoreRows, build_engine, joined, logit_as_loss, look
from sie_spark.models import Batch, build_model
from sie_spark.models.store import PILOT, REFERENCE, save_model
from sie_spark.platform.config import Model, Session
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.root import Root
from sie_spark.platform.session import open_session

Timed = dict[str, Callable[[], object]]
SPEC = InputSpec(
    categories={f"c{i}": 10 ** (1 + i % 4) for i in range(16)}, numbers=tuple(f"n{i}" for i in range(6))
)
MODEL = Model.model_validate({"name": "dcnv2"})
STAGE_SCORERS = ("loss", "logit_grad_norm")
MICRO = 4096


def interleaved(
    functions: Timed, runs: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each function, taken in turn; one round of warming up is dropped."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(runs + 1):
        for name, function in functions.items():
            began = clock()
            function()
            if round_number:
                times[name].append(clock() - began)
    return times


def seconds_of_all() -> float:
    """Processor seconds of this process and of all below it that live: the JVM, its Python workers, a pool."""
    children: dict[int, list[tuple[int, float]]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                words = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                ticks = int(words[11]) + int(words[12])
                children.setdefault(int(words[1]), []).append((int(entry), ticks / os.sysconf("SC_CLK_TCK")))

    def below(process: int) -> float:
        return sum(own + below(child) for child, own in children.get(process, []))

    return below(os.getpid()) + time.process_time()


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


def rows_of(count: int, seed: int = 0) -> pa.Table:
    """Encoded rows with clicks that depend on ids, numbers and one product."""
    rng = np.random.default_rng([count, seed])
    sizes = np.array(list(SPEC.categories.values()))
    cat = np.minimum((sizes * rng.random((count, len(sizes))) ** 2).astype(np.int32), sizes - 1)
    dense = rng.normal(size=(count, len(SPEC.numbers))).astype(np.float32)
    effects = [np.random.default_rng(i).normal(size=size) for i, size in enumerate(sizes)]
    logit = -3 + 0.4 * sum(e[cat[:, i]] for i, e in enumerate(effects[:6])) + 0.5 * dense[:, 0] * dense[:, 1]
    label = (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    lists = {
        name: pa.ListArray.from_arrays(
            pa.array(np.arange(count + 1, dtype=np.int32) * values.shape[1]), pa.array(values.ravel())
        )
        for name, values in (("cat", cat), ("dense", dense))
    }
    ids = rng.permutation(count).astype(np.int64) + seed * 10**9
    return pa.table({"sample_id": ids, "label": label, "sampling_rate": np.ones(count, np.float32), **lists})


def fitted_model(rows: pa.Table) -> nn.Module:
    """One pass of Adam."""
    model, batch = build_model(MODEL, SPEC, seed=0), Batch.from_arrow(rows, SPEC)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for part in batch.split(512):
        loss = functional.binary_cross_entropy_with_logits(model(**part.inputs), part.label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def known(root: Path, model: nn.Module) -> dict[str, ModelRef]:
    """The one model as pilot, reference and a checkpoint of it."""
    found = {}
    for name in (PILOT, REFERENCE, f"{REFERENCE}@1"):
        folder = name.replace("@", "-")
        uri = save_model(Root(root), model, arm=folder, fingerprint="f", settings=MODEL, inputs=SPEC)
        found[name] = ModelRef(name, uri, hashlib.sha256(Path(uri).read_bytes()).hexdigest(), 0.001)
    return found


def score_plainly(task: tuple[str, str, Pass]) -> int:
    """What a worker does, in a plain process: Parquet in, the same torch loop, Parquet out."""
    source, target, shared = task
    file, rows = pq.ParquetFile(source), 0
    function = ScoreRows(shared, STAGE_SCORERS, PILOT)
    writer: pq.ParquetWriter | None = None
    for scored in function(file.iter_batches(batch_size=10_000)):
        writer = writer or pq.ParquetWriter(target, scored.schema, compression="zstd")
        writer.write_batch(scored)
        rows += scored.num_rows
    if writer is not None:
        writer.close()
    return rows


def stage(root: Path, models: dict[str, ModelRef], rows: int, runs: int) -> None:
    """The score job's write through Spark against as many plain processes as there are cores."""
    cores = os.cpu_count() or 1
    folder = root / "rows"
    folder.mkdir()
    for part in range(4 * cores):
        pq.write_table(
            rows_of(rows // (4 * cores), seed=part + 1), folder / f"{part}.parquet", compression="zstd"
        )
    files = sorted(map(str, folder.iterdir()))
    shared = Pass((models[PILOT],), tuple(models.values()), (), threads=1, inputs=SPEC)
    spark = open_session(Session.model_validate({}))
    frame = score_rows(spark.read.parquet(str(folder)), ScoreRows(shared, STAGE_SCORERS, PILOT))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        frame.explain()
    emit(
        "score job: shuffles in the plan", said.getvalue().count("Exchange"), 0.0, runs=1, note="Spark's plan"
    )

    def by_spark() -> None:
        frame.write.mode("overwrite").format("delta").save(str(root / "scored"))

    with multiprocessing.get_context("spawn").Pool(cores, torch.set_num_threads, (1,)) as pool:

        def plainly() -> None:
            shutil.rmtree(root / "plain", ignore_errors=True)
            (root / "plain").mkdir()
            tasks = [(file, str(root / "plain" / Path(file).name), shared) for file in files]
            assert sum(pool.imap_unordered(score_plainly, tasks)) > 0

        times = interleaved({"spark": by_spark, "plain": plainly}, runs, seconds_of_all)
    spark.stop()
    value = median(b / a for a, b in zip(times["spark"], times["plain"], strict=True))
    note = (
        f"{rows:,} rows, scores {', '.join(STAGE_SCORERS)} and p; processor time, {1e6 * median(times['spark']) / rows:.1f}"
        f" microseconds a row through Spark and Delta, {1e6 * median(times['plain']) / rows:.1f} by {cores} plain"
        " processes that read and write Parquet; warm"
    )
    emit("score job: rows a second of plain processes", value, 0.85, least=True, runs=runs, note=note)


def training_step(model: nn.Module, batch: Batch) -> None:
    """Forward and backward of the mean loss, without an optimiser."""
    model.zero_grad(set_to_none=True)
    functional.binary_cross_entropy_with_logits(model(**batch.inputs), batch.label).backward()


def artefacts(models: dict[str, ModelRef], model: nn.Module, rows: Batch) -> Given:
    """What all scorers read, fitted on these rows."""
    settings = defaults().model_copy(update={"target_rows": 1000})
    given = Given(models, settings=settings, inputs=SPEC)
    states: dict[str, State] = {}
    for level in make_plan([SCORERS[name] for name in sorted(SCORERS)], given).levels:
        for fit in level:
            here, found = Given(models, states, settings, SPEC), []
            if fit.rows:
                one = fit.open(here)
                quantities = joined([one.quantities()])
                loaded = loaded_of(model, fit.models(), quantities)
                for part in rows.split(MICRO):
                    one.add(look(loaded, part, quantities))
                found.append(one.state())
            states[fit.key] = fit.finish(fit.merge(found), here)
    return replace(given, states=states)


def loaded_of(model: nn.Module, names: tuple[str, ...], quantities: dict) -> dict[str, Loaded]:
    return {
        name: Loaded(model, SPEC, build_engine(model) if quantities.get(name) else None)
        for name in dict.fromkeys(names)
    }


def steps(models: dict[str, ModelRef], model: nn.Module, runs: int) -> None:
    """Each scorer's pass alone in training steps, and a validation dot against the norm."""
    rows, batch = (
        Batch.from_arrow(rows_of(20_000, seed=91), SPEC),
        Batch.from_arrow(rows_of(MICRO, seed=92), SPEC),
    )
    given = artefacts(models, model, rows)
    engine, norms = Engine(model), Norms()
    v = gradient(model, rows.take(slice(0, 2000)).inputs, lambda g: g)
    dots = Dots({"validation": v})
    pair = interleaved(
        {
            "norm": lambda: engine(batch.inputs, logit_as_loss, norms),
            "dot": lambda: engine(batch.inputs, logit_as_loss, dots),
        },
        max(runs, 15),
    )
    value = median(a / b for a, b in zip(pair["dot"], pair["norm"], strict=True))
    emit("a validation dot / the norm", value, 1.35, runs=max(runs, 15), note="one micro-batch of 4,096 rows")
    for name in sorted(SCORERS):
        scorer = SCORERS[name]
        quantities = joined([scorer.quantities(given)])
        loaded = loaded_of(model, scorer.models(given), quantities)

        def score(scorer=scorer, loaded=loaded, quantities=quantities) -> object:
            return scorer.score(look(loaded, batch, quantities), given)

        times = interleaved({"score": score, "step": lambda: training_step(model, batch)}, runs)
        value = median(a / b for a, b in zip(times["score"], times["step"], strict=True))
        note = "score pass / forward and backward of the DCN-v2 without an optimiser; 4,096 rows"
        emit(f"cost of {name} in training steps", value, None, runs=runs, note=note)


def distilled(models: dict[str, ModelRef], model: nn.Module, runs: int) -> None:
    """The auxiliary network on rows that no fit has seen: its ranking, and its speed against the exact pass."""
    names, asked = ("auxiliary_norm", "auxiliary_p_norm"), Batch.from_arrow(rows_of(50_000, seed=93), SPEC)
    rows = Batch.from_arrow(rows_of(100_000, seed=94), SPEC)
    given, states = Given(models, inputs=SPEC), dict[str, State]()
    for level in make_plan([SCORERS[name] for name in names], given).levels:
        for fit in level:
            here, found = replace(given, states=states), []
            if fit.rows:
                one = fit.open(here)
                quantities = joined([one.quantities()])
                loaded = loaded_of(model, fit.models(), quantities)
                for part in rows.split(MICRO):
                    one.add(look(loaded, part, quantities))
                found.append(one.state())
            states[fit.key] = fit.finish(fit.merge(found), here)
    given = replace(given, states=states)
    exact_scorer = SCORERS["logit_grad_norm"]
    quantities = joined([exact_scorer.quantities(given)])
    loaded = loaded_of(model, (PILOT,), quantities)

    def exact() -> np.ndarray:
        parts = [exact_scorer.score(look(loaded, part, quantities), given) for part in asked.split(MICRO)]
        return torch.cat(parts).numpy()

    def of(name: str) -> np.ndarray:
        parts = [SCORERS[name].score(look({}, part, {}), given) for part in asked.split(MICRO)]
        return torch.cat(parts).numpy()

    with torch.inference_mode():
        p = torch.sigmoid(model(**asked.inputs)).numpy()
    norm = exact()
    for name, wanted, bar in (("auxiliary_norm", norm, 0.97), ("auxiliary_p_norm", p * norm, 0.99)):
        value = float(stats.spearmanr(of(name), wanted)[0])
        emit(
            f"{name}: Spearman with the exact score",
            value,
            bar,
            least=True,
            runs=1,
            note="50,000 unseen rows",
        )
    times = interleaved({"exact": exact, "network": lambda: of("auxiliary_norm")}, runs)
    value = median(a / b for a, b in zip(times["exact"], times["network"], strict=True))
    note = f"{len(asked) / median(times['network']):,.0f} rows a second and thread"
    emit("auxiliary network: rows a second of the exact pass", value, 30.0, least=True, runs=runs, note=note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=400_000, help="of the score job")
    parser.add_argument("--only", default="stage,steps,distilled,neighbours")
    options = parser.parse_args()
    only = options.only.split(",")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        model = fitted_model(rows_of(100_000))
        models = known(Path(folder), model)
        if "stage" in only:
            stage(Path(folder), models, options.rows, options.runs)
        if "steps" in only:
            steps(models, model, options.runs)
        if "distilled" in only:
            distilled(models, model, options.runs)
    if "neighbours" in only:
        knn_against_pydvl(options.runs)


if __name__ == "__main__":
    main()
