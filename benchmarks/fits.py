"""Are the fits worth trusting? ``python benchmarks/fits.py``: models against plain baselines, seed by seed.

Every set goes through ``ingest``, ``impressions`` and ``encode`` once. Settings are searched once a set, on its
validation rows; then the reference, the pilot, the weighted and the random arm are fitted as the stages fit them,
on rows in memory, with seeds that vary start values, order and subset. Test rows are read for the figures alone.
Fits are kept under --root by a digest of rows, settings, seed and code. Prints one JSON line a measure.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml
from scipy import stats
from sklearn.metrics import log_loss, roc_auc_score

from sie_spark.evaluation.yardsticks import fit_yardsticks
from sie_spark.models import Batch, build_model
from sie_spark.models.inputs import find_edges
from sie_spark.platform.code import code_digest
from sie_spark.platform.config import Model, Training, Weighting, load_config
from sie_spark.platform.config.load import digest
from sie_spark.platform.inputs import InputSpec
from sie_spark.training.budget import budgeted
from sie_spark.training.intercept import set_output_bias
from sie_spark.training.loop import fit
from sie_spark.training.memory import RowsInMemory, mean_loss, validation_loss
from sie_spark.training.search import Sample, TryOne, search
from sie_spark.training.tuning import scaled
from sie_spark.weighting.arms import Plan, solve_arm
from sie_spark.weighting.registry import POLICIES
from sie_spark.weighting.solving_sample import SolvingSample
from sie_spark.weighting.terms import NUMPY

HERE = Path(__file__).resolve().parent
CONF = HERE.parent / "conf" / "datasets"
GENERATED = ("linear", "crossed", "wide")
TAOBAO_BLOCKS = ("2017-11-28", "2017-11-29", "2017-11-30")
PARTS = ("train", "validation", "test")
SEARCH_ROWS = Training().tune_rows  # type: ignore[call-arg]
SHARE = 0.1
FIT_CODE = (
    "sie_spark.models",
    *(f"sie_spark.training.{name}" for name in ("budget", "intercept", "loop", "memory", "optimisers")),
)
SEARCH_CODE = (*FIT_CODE, "sie_spark.training.search")
CODE = {
    "reference": FIT_CODE,
    "yardsticks": ("sie_spark.evaluation.yardsticks",),
    "random": (*FIT_CODE, "sie_spark.evaluation.yardsticks"),
    "weighted": (*FIT_CODE, "sie_spark.gradients", "sie_spark.weighting"),
    "lean": (*FIT_CODE, "sie_spark.gradients", "sie_spark.weighting"),
}


def main() -> int:
    """Prepare, search, fit, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", default="runs/fits")
    parser.add_argument("--data", default=str(HERE.parent.parent / "shared" / "data"))
    parser.add_argument("--sets", default="trivago,taobao,simulator,linear,crossed,wide")
    parser.add_argument("--quick", action="store_true", help="one seed, the generated tables alone")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    names = list(GENERATED) if options.quick else options.sets.split(",")
    seeds = (
        {"reference": 1, "trivago": 1, "subset": 1}
        if options.quick
        else {
            "reference": 5,
            "trivago": 8,
            "subset": 3,
        }
    )
    root = Path(options.root)
    root.mkdir(parents=True, exist_ok=True)
    blocks = {name: prepare(name, root, Path(options.data)) for name in names}
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for name in names:
            for line in measured(name, blocks[name], pool, seeds):
                print(json.dumps(line), flush=True)
        for line in [
            *lean(blocks, pool, 2 if options.quick else 8),
            *small_tables(pool, root),
            *cost_of_search(root, blocks),
        ]:
            print(json.dumps(line), flush=True)
    return 0


def said(
    measure: str, values: list[float], bar: float, *, at_least: bool = True, note: str = ""
) -> dict[str, Any]:
    """A mean over seeds with its 95 % t-interval, against a bar."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)) if len(values) > 1 else float("nan")
    span = f"95 % t-interval +-{half:.4f} over seeds; " if len(values) > 1 else ""
    return {
        "measure": measure,
        "value": round(mean, 5),
        "bar": bar,
        "holds": mean >= bar if at_least else mean <= bar,
        "runs": len(values),
        "note": span + note,
    }


# ---------------------------------------------------------------- rows


@dataclass(frozen=True)
class Rows:
    """The encoded parts of one set or block."""

    spec: InputSpec
    train: Batch
    validation: Batch
    test: Batch
    name: str

    @property
    def both(self) -> Batch:
        """What the last fit takes."""
        return Batch.concat([self.train, self.validation])


def prepare(name: str, root: Path, data: Path) -> list[str]:
    """Encode a set unless it was; the files of its blocks."""
    if name == "taobao":
        source = str(data / "taobao_userbehavior" / "users_815")
        return [
            encoded(
                f"taobao-{day}",
                root,
                CONF / "taobao_userbehavior.yaml",
                source,
                f"dataset.split.test_from={day}",
            )
            for day in TAOBAO_BLOCKS
        ]
    if name == "trivago":
        source = str(data / "trivago_search_clicks" / "trivago_val_100k.parquet")
        return [encoded(name, root, CONF / "trivago.yaml", source)]
    if name == "simulator":
        config = CONF / "simulated.yaml"
        stage("simulate", root / name, config, None)
        return [encoded(name, root, config, str(root / name / "raw"))]
    return [encoded(name, root, *generated(name, root, 50_000))]


def generated(name: str, root: Path, rows: int) -> tuple[Path, str]:
    """One of the generated tables as Parquet, and a YAML file that describes it."""
    sys.path.insert(0, str(HERE))
    import tables

    frame = getattr(tables, name)(rows)
    path, config = root / f"{name}-{rows}.parquet", root / f"{name}-{rows}.yaml"
    used = [column for column in frame.columns if column not in ("event_ts", "label", "p")]
    if not path.exists():
        frame.drop(columns="p").assign(row=np.arange(len(frame)).astype(str)).to_parquet(path, index=False)
    dataset = {
        "name": name,
        "kind": "tabular",
        "source": {"format": "parquet"},
        "columns": {column: column for column in ["event_ts", "label", *used]} | {"event_id": "row"},
        "event_key": ["event_id"],
        "group": "user_id",
        "features": [
            {"column": column, "kind": "category" if frame[column].dtype == object else "number"}
            for column in used
        ],
    }
    config.write_text(yaml.safe_dump({"dataset": dataset}))
    return config, str(path)


def stage(job: str, root: Path, config: Path, source: str | None, *more: str) -> None:
    """One stage by the command line."""
    command = [sys.executable, "-m", "sie_spark.cli", job, "--root", str(root), "--config", str(config)]
    command += ["--source", source] if source else []
    for setting in more:
        command += ["--set", setting]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stderr[-2000:]}")


def encoded(name: str, root: Path, config: Path, source: str, *more: str) -> str:
    """The parts of an encoded log as a file of tensors."""
    file = root / f"{name}.pt"
    if not file.exists():
        for job in ("ingest", "impressions", "encode"):
            stage(job, root / name, config, source, *more)
        keep(name, root / name, config, file)
    return str(file)


def keep(name: str, root: Path, config: Path, file: Path) -> None:
    """Read ``samples`` once."""
    from sie_spark.platform.config import Session
    from sie_spark.platform.session import open_session

    spark = open_session(Session())  # type: ignore[call-arg]
    pointer = json.loads((root / "encoders" / "current.json").read_text())
    inputs = json.loads((root / "encoders" / f"{pointer['fingerprint']}.json").read_text())["inputs"]
    spec, parts = InputSpec.from_dict(inputs), {}
    frame = spark.read.format("delta").load(str(root / "tables" / "samples"))
    for part in PARTS:
        rows = frame.where(f"split = '{part}'").orderBy("event_ts", "sample_id").drop("event_ts")
        batch = Batch.from_arrow(rows.toArrow(), spec)
        parts[part] = {
            "inputs": batch.inputs,
            **{n: getattr(batch, n) for n in ("label", "offset", "weight", "sample_id")},
        }
    torch.save({"inputs": json.dumps(inputs), "parts": parts, "config": str(config)}, file)


@lru_cache(maxsize=4)
def load(file: str) -> tuple[Rows, Model, Training]:
    """A file of :func:`keep`."""
    held = torch.load(file, weights_only=True)
    parts = {part: Batch(**values) for part, values in held["parts"].items()}
    rows = Rows(InputSpec.from_dict(json.loads(held["inputs"])), **parts, name=Path(file).stem)
    settings = load_config(held["config"])
    return rows, settings.model, settings.training


def uniform(rows: int, seed: int, purpose: str) -> np.ndarray:
    """Draws that share nothing with those that a generated table was made of."""
    return np.random.default_rng([seed, *purpose.encode()]).random(rows)


def some(batch: Batch, rows: int, seed: int) -> Batch:
    """So many rows in random order, or all of them."""
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed))
    return batch.take(order[:rows])


# ---------------------------------------------------------------- fits


def settings_of(file: str, pool: Any) -> tuple[Model, Training, dict[str, Any]]:
    """What the search chooses for a set, as stage train does it."""
    _, model, training = load(file)
    kept = Path(file).with_suffix(
        f".{digest([code_digest(*SEARCH_CODE), Path(file).stat().st_size])}.search.json"
    )
    if not kept.exists():
        began, sample = time.monotonic(), sample_file(file)
        best, outcomes = search(
            lambda function, number: in_pool(pool, function, number), sample, model, training
        )
        kept.write_text(
            json.dumps(
                {
                    "model": best.model,
                    "training": best.training,
                    "words": best.words,
                    "fits": len(outcomes),
                    "seconds": time.monotonic() - began,
                }
            )
        )
    found = json.loads(kept.read_text())
    share = min(1.0, SEARCH_ROWS / len(load(file)[0].train))
    return (
        Model(**{**model.model_dump(), **found["model"]}),
        Training(**{**training.model_dump(), **scaled(found["training"], share)}),
        found,
    )


def sample_file(file: str) -> Sample:
    """The rows of a search."""
    rows, _, _ = load(file)
    parts = [some(rows.train, SEARCH_ROWS, 0), some(rows.validation, SEARCH_ROWS // 2, 0)]
    tables = [arrow(part, rows.spec, held) for part, held in zip(parts, (False, True), strict=True)]
    table, sink = pa.concat_tables(tables), io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    path = Path(file).with_suffix(".arrow")
    path.write_bytes(sink.getvalue())
    return Sample(str(path), hashlib.sha256(sink.getvalue()).hexdigest(), rows.spec.as_dict(), len(parts[0]))


def arrow(batch: Batch, spec: InputSpec, held: bool) -> pa.Table:
    """A batch as the encoded table it came from."""
    columns = {name: pa.array(list(batch.inputs[name].numpy())) for name in spec.columns}
    return pa.table(
        {
            **columns,
            "label": batch.label.numpy(),
            "weight": batch.weight.numpy(),
            "sample_id": batch.sample_id.numpy(),
            "validation": pa.array([held] * len(batch)),
        }
    )


def in_pool(pool: Any, function: TryOne, number: int) -> list[tuple[int, str]]:
    """Candidates of the search side by side."""
    outcomes = pool.map(function.outcome, range(number), chunksize=1)
    return [(at, json.dumps(outcome)) for at, outcome in enumerate(outcomes)]


def start(rows: Batch, spec: InputSpec, model: Model, seed: int) -> torch.nn.Module:
    """A fresh model as a fit begins."""
    fresh = build_model(model, spec, seed=seed)
    find_edges(fresh, rows.inputs["dense"][:16_384])
    facts = float((rows.weight * rows.label).sum() / rows.weight.sum())
    odds = np.log(facts / (1 - facts)) - float(
        (rows.offset * rows.weight).sum() / rows.weight.sum()
    )  # near enough a start
    set_output_bias(fresh, rows.take(slice(0, 4096)), float(odds))
    return fresh


def fitted(
    train: Batch, both: Batch, judged_on: Batch, spec: InputSpec, model: Model, training: Training, seed: int
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Judge, then fit again on both parts with as many passes as were best."""
    training = training.model_copy(update={"seed": seed})
    began = time.process_time()
    one = start(train, spec, model, seed)
    history = fit(
        one,
        RowsInMemory(train, batch_size=training.batch_size, seed=seed),
        training,
        judge=lambda found: mean_loss(validation_loss(found, judged_on)),
        mean_weight=float(train.weight.mean()),
    )
    two = start(both, spec, model, seed)
    fit(
        two,
        RowsInMemory(both, batch_size=training.batch_size, seed=seed),
        training.model_copy(update={"epochs": history.best_epoch}),
        mean_weight=float(both.weight.mean()),
    )
    return two, {
        "seconds": time.process_time() - began,
        "epochs": history.best_epoch,
        "batch": training.batch_size,
    }


def predict(model: torch.nn.Module, batch: Batch) -> np.ndarray:
    """Logits, float64 [N]."""
    with torch.inference_mode():
        return torch.cat([model(**part.inputs) for part in batch.split(8192)]).double().numpy()


def one_arm(task: tuple[str, str, str, str, int, int]) -> dict[str, Any]:
    """Fit one arm of one block with one seed, or read what an earlier run kept of it."""
    file, arm, model_text, training_text, limit, seed = task
    model, training = Model.model_validate_json(model_text), Training.model_validate_json(training_text)
    stamp = digest([Path(file).stat().st_size, *task[1:], code_digest(*CODE[arm])])
    kept = Path(file).parent / "fits" / f"{Path(file).stem}-{arm}-{seed}-{stamp}.npz"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        logits, facts = ARMS[arm](load(file)[0], model, training, limit, seed)
        np.savez(kept, facts=np.array(json.dumps(facts)), **logits)
    with np.load(kept, allow_pickle=False) as held:
        return {name: held[name] for name in held.files if name != "facts"} | json.loads(str(held["facts"]))


Found = tuple[dict[str, np.ndarray], dict[str, Any]]


def reference_arm(rows: Rows, model: Model, training: Training, limit: int, seed: int) -> Found:
    """All rows, or ``limit`` of them."""
    train, validation = some(rows.train, limit, 0), some(rows.validation, limit // 9 + 1, 0)
    found, facts = fitted(
        train, Batch.concat([train, validation]), validation, rows.spec, model, training, seed
    )
    return {"logit": predict(found, rows.test)}, facts


def yardstick_arm(rows: Rows, model: Model, training: Training, limit: int, seed: int) -> Found:
    """Logistic regression and trees on all rows; the seed draws folds alone."""
    train, validation = some(rows.train, limit, 0), some(rows.validation, limit // 9 + 1, 0)
    found = fit_yardsticks(train, validation, rows.spec, seed=seed)
    return {one.name: one.logits(rows.test) for one in found}, {
        "chosen": {one.name: one.chosen for one in found}
    }


def random_arm(rows: Rows, model: Model, training: Training, limit: int, seed: int) -> Found:
    """A random tenth, and the yardsticks on the same rows."""
    train, both = kept(rows, np.full(len(rows.both), SHARE), seed)
    asked = budgeted(training, len(train), len(rows.train))
    found, facts = fitted(train, both, rows.validation, rows.spec, model, asked, seed)
    plain = fit_yardsticks(both, rows.validation, rows.spec, seed=seed, refit=False)
    return {"logit": predict(found, rows.test), **{one.name: one.logits(rows.test) for one in plain}}, facts


def weighted_arm(rows: Rows, model: Model, training: Training, limit: int, seed: int) -> Found:
    """The default policy on the scores of a pilot."""
    for attempt in range(100):
        seen = uniform(len(rows.both), seed, f"pilot{attempt}" if attempt else "pilot") < SHARE
        train, both = kept(rows, seen.astype(float), seed)
        if two_classes(train):
            break
    asked = budgeted(training, len(train), len(rows.train))
    pilot, cost = fitted(train, both, rows.validation, rows.spec, model, asked, seed)
    policy, decision = decided(rows.both, pilot, seen, SHARE)
    train, both = kept(rows, decision.pi, seed, decision.offset, decision.weight)
    asked = budgeted(training, len(train), len(rows.train))
    found, facts = fitted(train, both, rows.validation, rows.spec, model, asked, seed)
    facts |= {"policy": policy, "kept": len(both) / len(rows.both), "pilot_seconds": cost["seconds"]}
    return {"logit": predict(found, rows.test), "pilot": predict(pilot, rows.test)}, facts


def lean_arm(rows: Rows, model: Model, training: Training, limit: int, seed: int) -> Found:
    """Weighted fits whose pilots saw all rows, a tenth of them, and a tenth that is then drawn blindly."""
    everything, found = rows.both, {}
    for name, share in (("all", 1.0), ("tenth", SHARE)):
        seen = uniform(len(everything), seed, "pilot") < share
        _, drawn = kept(rows, seen.astype(float), seed)
        pilot = plain_fit(drawn, rows, model, training, seed)
        found["full" if name == "all" else "pilot"] = predict(pilot, rows.test)
        for blind in (False, True) if name == "tenth" else (False,):
            _, decision = decided(everything, pilot, seen if blind else np.zeros_like(seen), 2 * SHARE)
            _, both = kept(rows, decision.pi, seed, decision.offset, decision.weight)
            fitted_ = plain_fit(both, rows, model, training, seed)
            found[f"{name}, blind" if blind else name] = predict(fitted_, rows.test)
    return found, {}


def plain_fit(drawn: Batch, rows: Rows, model: Model, training: Training, seed: int) -> torch.nn.Module:
    """A fit of so many passes, judged by nobody."""
    asked = budgeted(training, len(drawn), len(rows.both)).model_copy(update={"seed": seed})
    fresh = start(drawn, rows.spec, model, seed)
    feed = RowsInMemory(drawn, batch_size=asked.batch_size, seed=seed)
    fit(fresh, feed, asked, mean_weight=float(drawn.weight.mean()))
    return fresh


def decided(everything: Batch, pilot: torch.nn.Module, seen: np.ndarray, budget: float) -> tuple[str, Any]:
    """The default policy's decision as stage weigh makes it, and the policy that it is by then."""
    label = everything.label.double().numpy()
    p = 1 / (1 + np.exp(-predict(pilot, everything)))
    sample = SolvingSample(label, np.ones_like(label), seen, p)
    policy = POLICIES[Weighting().policy]  # type: ignore[call-arg]
    arm = solve_arm(Plan("weighted", policy, None, budget, policy.options()), budget, sample)
    return arm.policy.name, arm.decide(sample.row(None), sample.rate, NUMPY, seen=seen)


ARMS: dict[str, Callable[[Rows, Model, Training, int, int], Found]] = {
    "reference": reference_arm,
    "yardsticks": yardstick_arm,
    "random": random_arm,
    "weighted": weighted_arm,
    "lean": lean_arm,
}


def two_classes(batch: Batch) -> bool:
    """Whether there is something to learn."""
    return 0 < float(batch.label.sum()) < len(batch)


def kept(
    rows: Rows, pi: np.ndarray, seed: int, offset: Any = None, weight: Any = None
) -> tuple[Batch, Batch]:
    """The rows of the training part, and of both parts, that a draw keeps."""
    everything = rows.both
    if offset is not None:
        everything = Batch(
            everything.inputs,
            everything.label,
            torch.from_numpy(np.asarray(offset, np.float32)),
            torch.from_numpy(np.asarray(weight, np.float32)),
            everything.sample_id,
        )
    for attempt in range(100):  # a stage refuses rows of one class; on few clicks another draw is made
        purpose = f"keep{attempt}" if attempt else "keep"
        chosen = torch.from_numpy(np.flatnonzero(uniform(len(everything), seed, purpose) < pi))
        chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))]
        train = everything.take(chosen[chosen < len(rows.train)])
        if two_classes(train):
            break
    return train, everything.take(chosen)


# ---------------------------------------------------------------- measures


def measured(name: str, files: list[str], pool: Any, seeds: dict[str, int]) -> list[dict[str, Any]]:
    """All measures of one set; of several blocks the predictions are pooled."""
    chosen = {file: settings_of(file, pool) for file in files}
    number = max(seeds["reference"], seeds["trivago"] if name == "trivago" else 0)
    everything = 10**9

    def fits(arm: str, count: int) -> list[list[dict[str, Any]]]:
        tasks = [
            (file, arm, m.model_dump_json(), t.model_dump_json(), everything, seed)
            for seed in range(count)
            for file, (m, t, _) in chosen.items()
        ]
        done = pool.map(one_arm, tasks, chunksize=1)
        return [done[at : at + len(files)] for at in range(0, len(done), len(files))]

    label = np.concatenate([load(file)[0].test.label.numpy() for file in files])

    def auc(blocks: list[dict[str, Any]], key: str = "logit") -> float:
        return float(roc_auc_score(label, np.concatenate([block[key] for block in blocks])))

    def calibration(blocks: list[dict[str, Any]], key: str = "logit") -> float:
        logit = np.concatenate([block[key] for block in blocks])
        return float((1 / (1 + np.exp(-logit))).mean() / label.mean())

    def entropy(blocks: list[dict[str, Any]], key: str = "logit") -> float:
        p = 1 / (1 + np.exp(-np.concatenate([block[key] for block in blocks])))
        return float(log_loss(label, p) / log_loss(label, np.full(len(label), label.mean())))

    reference, plain = fits("reference", number), fits("yardsticks", 1)[0]
    random, weighted = fits("random", seeds["subset"]), fits("weighted", seeds["subset"])
    yard = {key: auc(plain, key) for key in ("logistic_regression", "boosted_trees")}
    best = max(yard, key=lambda key: yard[key])
    words = "; ".join(dict.fromkeys(found["words"] for _, _, found in chosen.values()))
    searched = sum(found["seconds"] for _, _, found in chosen.values())
    scores = [auc(blocks) for blocks in reference]
    lines = [
        said(
            f"{name}: reference - best yardstick, test AUC",
            [score - yard[best] for score in scores[: seeds["reference"]]],
            -0.003,
            note=f"reference {np.mean(scores):.4f}, {', '.join(f'{k} {v:.4f}' for k, v in yard.items())};"
            f" {int(label.sum()):,} positive of {len(label):,} test rows; search {searched:.0f} s chose {words}",
        )
    ]
    if name == "trivago":
        lines.append(said("trivago: reference, test AUC", scores, 0.880))
    lines.append(
        said(
            f"{name}: random 10 % - better of the yardsticks on the same rows",
            [auc(blocks) - max(auc(blocks, key) for key in yard if key in blocks[0]) for blocks in random],
            -0.005,
            note=f"random {np.mean([auc(b) for b in random]):.4f}; batch {random[0][0]['batch']},"
            f" {random[0][0]['epochs']} passes",
        )
    )
    lines.append(
        said(
            f"{name}: weighted 10 % - reference, test AUC (no bar here)",
            [auc(blocks) - float(np.mean(scores)) for blocks in weighted],
            -1.0,
            note=f"policy {weighted[0][0]['policy']}, kept {weighted[0][0]['kept']:.3f};"
            f" random - reference {np.mean([auc(b) for b in random]) - np.mean(scores):+.4f}",
        )
    )
    worst = max(entropy(blocks) for arm in (reference, random, weighted) for blocks in arm)
    lines.append(said(f"{name}: largest normalised entropy of any arm", [worst], 1.0, at_least=False))
    if label.sum() >= 1000:
        for arm, blocks_ in (("reference", reference), ("weighted", weighted), ("random", random)):
            values = [calibration(blocks) for blocks in blocks_]
            line = said(f"{name}: calibration of the {arm} arm, correction off", values, 0.93)
            line["holds"], line["bar"] = 0.93 <= line["value"] <= 1.07, [0.93, 1.07]
            lines.append(line if arm != "random" else {**line, "bar": None, "holds": None})
    return lines


def lean(blocks: dict[str, list[str]], pool: Any, seeds: int) -> list[dict[str, Any]]:
    """Why weighted fits leaned upwards: calibration over that of all rows, by what the pilot had seen."""
    if "linear" not in blocks:
        return []
    (file,) = blocks["linear"]
    rows, _, _ = load(file)
    model = Model(name="lr", number_bins=16)  # type: ignore[call-arg]
    training = Training(epochs=2, batch_size=256, learning_rate=4e-3)  # type: ignore[call-arg]
    tasks = [
        (file, "lean", model.model_dump_json(), training.model_dump_json(), 0, seed) for seed in range(seeds)
    ]
    done, rate = pool.map(one_arm, tasks, chunksize=1), float(rows.test.label.mean())

    def ratio(found: dict[str, Any], key: str) -> float:
        full, other = (float((1 / (1 + np.exp(-found[name]))).mean()) for name in ("full", key))
        return other / full

    words = {
        "all": "the pilot saw all rows",
        "tenth": "the pilot saw a tenth",
        "tenth, blind": "a tenth, drawn blindly",
    }
    lines = []
    for key, text in words.items():
        line = said(f"linear: weighted calibration over full, {text}", [ratio(f, key) for f in done], 0.97)
        line["holds"], line["bar"] = 0.97 <= line["value"] <= 1.03, [0.97, 1.03]
        lines.append(line if key == "tenth, blind" else {**line, "bar": None, "holds": None})
    lines[-1]["note"] += f"linear model, 2 passes, 20 % kept, click rate {rate:.3f}"
    return lines


def small_tables(pool: Any, root: Path) -> list[dict[str, Any]]:
    """The normalised entropy of every arm on tables of 1,000 and 5,000 rows."""
    lines = []
    for rows in (1_000, 5_000):
        worst: list[tuple[float, str]] = []
        for name in GENERATED:
            file = encoded(f"{name}-{rows}", root, *generated(name, root, rows))
            model, training, _ = settings_of(file, pool)
            label = load(file)[0].test.label.numpy()
            for arm in ("reference", "random", "weighted"):
                found = one_arm((file, arm, model.model_dump_json(), training.model_dump_json(), 10**9, 0))
                p = 1 / (1 + np.exp(-found["logit"]))
                constant = log_loss(label, np.full(len(label), label.mean()))
                worst.append((float(log_loss(label, p, labels=[0, 1]) / constant), f"{name} {arm}"))
        over = [where for value, where in worst if value >= 1.0]
        value, where = max(worst)
        lines.append(
            said(
                f"tables of {rows:,} rows: largest normalised entropy",
                [value],
                1.0,
                at_least=False,
                note=f"{where}; at or above 1, where the result says 'no better than a constant': {over or 'none'}",
            )
        )
    return lines


def cost_of_search(root: Path, blocks: dict[str, list[str]]) -> list[dict[str, Any]]:
    """A fit with the chosen settings against the same fit with the configuration's, in one process."""
    if "trivago" not in blocks:
        return []
    file = blocks["trivago"][0]
    rows, model, training = load(file)
    searches = Path(file).parent.glob("trivago.*.search.json")
    found = json.loads(max(searches, key=lambda path: path.stat().st_mtime).read_text())
    chosen = Model(**{**model.model_dump(), **found["model"]})
    share = min(1.0, SEARCH_ROWS / len(rows.train))
    asked = Training(**{**training.model_dump(), **scaled(found["training"], share)})
    ratios, both = [], []
    torch.set_num_threads(1)
    for _ in range(3):
        took = []
        for settings, shape in ((training, model), (asked, chosen)):
            began = time.process_time()
            fit(
                start(rows.train, rows.spec, shape, 0),
                RowsInMemory(rows.train, batch_size=settings.batch_size, seed=0),
                settings,
            )
            took.append(time.process_time() - began)
        ratios.append(took[1] / took[0])
        _, facts = fitted(rows.train, rows.both, rows.validation, rows.spec, chosen, asked, 0)
        both.append(facts["seconds"] / took[0])
    judged = said(
        "trivago: judged fit and refit as chosen / fit as configured, processor time (no bar here)",
        [float(np.median(both))],
        100.0,
        at_least=False,
        note=f"median of {len(both)}; training.refit=false leaves the judged fit alone",
    )
    return [
        {**judged, "bar": None, "holds": None},
        said(
            "trivago, 225,021 rows: fit as chosen / fit as configured, processor time",
            [float(np.median(ratios))],
            3.0,
            at_least=False,
            note=f"median of {len(ratios)}; the search apart: {found['seconds']:.0f} s, {found['fits']} fits",
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
