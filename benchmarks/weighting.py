"""Do a tenth of the rows, chosen, train as well as all of them? ``python benchmarks/weighting.py``

Sets are those of ``fits.py`` and the simulated tables of ``shop.py``. Of each, settings are searched once on its
validation rows (simulated tables share those of the million rows); then, seed by seed, all rows are fitted, a pilot is
fitted on a uniform tenth, its forward pass scores all rows, every policy keeps its tenth of them with one and the same
draw, and the kept rows are fitted. All fits are judged on the validation rows and made again on both parts with as
many passes as were best (on simulated tables the judged fit stays); those of fewer rows get the updates of ``training.budget``. Differences are taken within a
seed. On simulated tables the AUC is the expected one: each fresh row counts p positives and 1 - p negatives. Fits are
kept under --root by a digest of rows, settings, seed and code. Prints one JSON line a measure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fits
import numpy as np
import shop
import torch
from fits import FIT_CODE, HERE, SHARE, Rows, load, one_arm, said, two_classes, uniform
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from sie_spark.gradients import Norms
from sie_spark.importance.worker import build_engine, logit_as_loss
from sie_spark.models import Batch
from sie_spark.platform.code import code_digest
from sie_spark.platform.config import Model, Pilot, Training
from sie_spark.platform.config.base import validate
from sie_spark.platform.config.load import digest
from sie_spark.training.budget import budgeted
from sie_spark.training.loop import fit
from sie_spark.training.memory import RowsInMemory, mean_loss, validation_loss
from sie_spark.training.tuning import scaled
from sie_spark.weighting.arms import Plan, solve_arm
from sie_spark.weighting.registry import POLICIES
from sie_spark.weighting.solving_sample import MOST_ROWS, SolvingSample
from sie_spark.weighting.terms import NUMPY, Decision

Floats = NDArray[np.float64]
Line = dict[str, Any]
SIMULATED = ("sim-1", "sim-4", "sim-15", "sim-40")
MILLION, MILLIONS = "sim-2-1M", "sim-2-4M"
LOOP_CODE = tuple(
    name for name in FIT_CODE if not name.endswith("budget")
)  # settings are in the digest as they are


@dataclass(frozen=True)
class Choice:
    """A policy with its options, and the score that it reads beside p."""

    policy: str
    options: tuple[tuple[str, Any], ...] = ()
    score: str | None = None


EXACT = "logit_grad_norm"
BIASED = ("exp_score", "share", "rank", "clip", "temperature", "top", "bottom", "coverage_stratified")
CHOICES = {
    "rare_event sqrt(p)": Choice("rare_event"),
    "rare_event p": Choice("rare_event", (("power", 1.0),)),
    "rare_event exact norm": Choice("rare_event", score=EXACT),
    "local_case_control": Choice("local_case_control"),
    "horvitz_thompson": Choice("horvitz_thompson"),
    "uniform_negatives": Choice("uniform_negatives"),
    "class_stratified": Choice("class_stratified"),
    "random": Choice("random"),
    **{policy: Choice(policy) for policy in BIASED},
}


@dataclass(frozen=True)
class TreeChoice:
    """Kept rows for trees, weighted by 1 / pi or with the policy's offset as the start of boosting."""

    choice: Choice
    by_offset: bool = False


FOR_TREES = {
    "random": TreeChoice(CHOICES["random"]),
    "class_stratified, 1 / pi": TreeChoice(CHOICES["class_stratified"]),
    "uniform_negatives, 1 / pi": TreeChoice(CHOICES["uniform_negatives"]),
    "rare_event sqrt(p), 1 / pi": TreeChoice(CHOICES["rare_event sqrt(p)"]),
    "local_case_control, 1 / pi": TreeChoice(CHOICES["local_case_control"]),
    **{
        f"horvitz_thompson, uniform_mix {mix:g}": TreeChoice(
            Choice("horvitz_thompson", (("uniform_mix", mix),))
        )
        for mix in (0.15, 0.5, 0.8)
    },
    "rare_event sqrt(p), offset": TreeChoice(CHOICES["rare_event sqrt(p)"], by_offset=True),
    "uniform_negatives, offset": TreeChoice(CHOICES["uniform_negatives"], by_offset=True),
}
DEFAULT = "rare_event sqrt(p)"


# ---------------------------------------------------------------- one seed of one set


@dataclass(frozen=True)
class Scores:
    """What a pilot says of all rows, float64 [N]; the norm where somebody asked for it."""

    seen: NDArray[np.bool_]
    p: Floats
    norm: Floats | None
    seconds: dict[str, float]


@dataclass(frozen=True)
class Given:
    """A file of rows with its settings, as a worker gets them."""

    file: str
    model: str
    training: str
    caps: tuple[float, float] | None = None  # of a pilot's and a kept subset's fit, in full fits; else as set

    def budget(self, rows: int, full_rows: int, *, pilot: bool = False) -> Training:
        """Settings for fewer rows."""
        training = self.settings[1]
        caps = self.caps or (Pilot().cost_cap, training.cost_cap)  # type: ignore[call-arg]
        return budgeted(training.model_copy(update={"cost_cap": caps[0 if pilot else 1]}), rows, full_rows)

    @property
    def plain(self) -> str:
        """Training settings without what bears on fewer rows alone: the full fit does not depend on it."""
        return (
            Training.model_validate_json(self.training).model_copy(update={"cost_cap": 0.5}).model_dump_json()
        )

    @property
    def settings(self) -> tuple[Model, Training]:
        """Both as objects."""
        return Model.model_validate_json(self.model), Training.model_validate_json(self.training)

    def place(self, *words: Any) -> Path:
        """Where a result with these words is kept."""
        folder = Path(self.file).parent / "weighting"
        folder.mkdir(exist_ok=True)
        stamp = digest([Path(self.file).stat().st_size, self.model, self.plain, *words])
        return folder / f"{Path(self.file).stem}-{words[0]}-{stamp}.npz"


def kept_or_made(
    path: Path, make: Callable[[], tuple[dict[str, np.ndarray], dict[str, Any]]]
) -> dict[str, Any]:
    """Arrays and facts of a file, made unless it is there."""
    if not path.exists():
        arrays, facts = make()
        part = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(part, facts=np.array(json.dumps(facts)), **arrays)
        part.rename(path)
    with np.load(path, allow_pickle=False) as held:
        return {name: held[name] for name in held.files if name != "facts"} | json.loads(str(held["facts"]))


def drawn_from(rows: Rows, training: Training) -> Rows:
    """The rows that may be kept: without a second fit the training part alone."""
    return rows if training.refit else replace(rows, validation=rows.validation.take(slice(0, 0)))


def fitted(train: Batch, both: Batch, rows: Rows, model: Model, training: Training, seed: int) -> Any:
    """Judged and made again as ``training.refit`` says; pilot, full and subset alike."""
    if training.refit:
        return fits.fitted(train, both, rows.validation, rows.spec, model, training, seed)
    training = training.model_copy(update={"seed": seed})
    began = time.process_time()
    one = fits.start(train, rows.spec, model, seed)
    history = fit(
        one,
        RowsInMemory(train, batch_size=training.batch_size, seed=seed),
        training,
        judge=lambda found: mean_loss(validation_loss(found, rows.validation)),
        mean_weight=float(train.weight.mean()),
    )
    seconds = time.process_time() - began
    return one, {"seconds": seconds, "epochs": history.best_epoch, "batch": training.batch_size}


def full(given: Given, seed: int) -> dict[str, Any]:
    """The fit of all rows, as ``fits.py`` makes it."""
    model, training = given.settings
    if training.refit:
        return one_arm((given.file, "reference", given.model, given.plain, 10**9, seed))

    def make() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        rows, _, _ = load(given.file)
        train = fits.some(rows.train, 10**9, 0)
        found, facts = fitted(train, train, rows, model, training, seed)
        return {"logit": fits.predict(found, rows.test).astype(np.float32)}, facts

    return kept_or_made(given.place("full", seed, code_digest(*LOOP_CODE)), make)


def scores(given: Given, seed: int) -> Scores:
    """The pilot's, fitted on a uniform tenth."""
    norm = has_norms(given)
    rows, _, _ = load(given.file)
    code = code_digest(*LOOP_CODE, "sie_spark.gradients")
    found = kept_or_made(
        given.place("scores", seed, norm, code, given.budget(1, 1, pilot=True).cost_cap),
        lambda: scored(given, rows, seed, norm),
    )
    return Scores(found["seen"], found["p"].astype(float), found.get("norm"), found["seconds"])


def scored(given: Given, rows: Rows, seed: int, norm: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A pilot and its passes over all rows, with the processor time of each."""
    model, training = given.settings
    source = drawn_from(rows, training)
    everything = source.both
    for attempt in range(100):
        seen = uniform(len(everything), seed, f"pilot{attempt}" if attempt else "pilot") < SHARE
        train, both = fits.kept(source, seen.astype(float), seed)
        if two_classes(train):
            break
    asked = given.budget(len(train), len(rows.train), pilot=True)
    pilot, facts = fitted(train, both, rows, model, asked, seed)
    began = time.process_time()
    p = 1 / (1 + np.exp(-fits.predict(pilot, everything)))
    seconds = {"pilot": facts["seconds"], "scoring": time.process_time() - began}
    arrays = {"seen": seen, "p": p, "test": fits.predict(pilot, rows.test).astype(np.float32)}
    if norm:
        began = time.process_time()
        arrays["norm"] = norms(pilot, everything)
        seconds["exact"] = time.process_time() - began
    return arrays, {**facts, "seconds": seconds}


def norms(pilot: torch.nn.Module, rows: Batch) -> Floats:
    """``||d logit / d theta||`` of every row."""
    engine, quantity = build_engine(pilot), Norms()
    parts = (engine(part.inputs, logit_as_loss, quantity)[quantity.key] for part in rows.split(4096))
    return np.concatenate([part.sqrt().double().numpy() for part in parts])


def decided(choice: Choice, label: Floats, known: Scores, seed: int, budget: float) -> tuple[str, Decision]:
    """The policy's decision on all rows, solved on a sample as stage weigh does, and the policy it is by then."""

    def sample(rows: Any) -> SolvingSample:
        named = {} if known.norm is None else {EXACT: known.norm[rows]}
        one = np.ones(len(label[rows]))
        return SolvingSample(label[rows], one, known.seen[rows], known.p[rows], scores=named)

    policy = POLICIES[choice.policy]
    options = validate(policy.options, dict(choice.options), where=f"options of {choice.policy}")
    some = slice(None)
    if len(label) > MOST_ROWS:
        some = np.flatnonzero(uniform(len(label), seed, "solve") < MOST_ROWS / len(label))  # type: ignore[assignment]
    solved = solve_arm(Plan("kept", policy, choice.score, budget, options), budget, sample(some))
    everything = sample(slice(None))
    return solved.policy.name, solved.decide(
        everything.row(solved.score), everything.rate, NUMPY, seen=known.seen
    )


def arm(given: Given, seed: int, choice: Choice, budget: float = SHARE) -> dict[str, Any]:
    """The fit of what a policy keeps, on the scores of the seed's pilot; equal choices are fitted once."""
    rows, _, _ = load(given.file)
    known = scores(given, seed)
    model, training = given.settings
    source = drawn_from(rows, training)
    began = time.process_time()
    label = source.both.label.double().numpy()
    policy, decision = decided(choice, label, known, seed, budget)
    train, both = fits.kept(source, decision.pi, seed, decision.offset, decision.weight)
    selection = time.process_time() - began
    asked = given.budget(len(train), len(rows.train))

    def make() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        found, facts = fitted(train, both, rows, model, asked, seed)
        return {"logit": fits.predict(found, rows.test).astype(np.float32)}, facts

    place = given.place("arm", seed, asked.model_dump(), identity(both), code_digest(*LOOP_CODE))
    found = kept_or_made(place, make)
    seconds = {**known.seconds, "selection": selection, "retrain": found["seconds"]}
    positive = float((both.label > 0).float().mean())
    facts = {"policy": policy, "kept": len(both) / len(label), "positive": positive, "seconds": seconds}
    return found | facts


def identity(rows: Batch) -> str:
    """Of kept rows with their offsets and weights, as far as they matter."""
    parts = (rows.sample_id, (rows.offset * 1e3).round(), (rows.weight * 1e2).round())
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


@dataclass(frozen=True)
class Task:
    """What a worker does: all rows where no label is given, else these choices, one after the other."""

    given: Given
    seed: int
    labels: tuple[str, ...] = ()

    def run(self) -> dict[str, dict[str, Any]]:
        """Facts and test logits by label."""
        if not self.labels:
            return {"full": full(self.given, self.seed)}
        return {label: arm(self.given, self.seed, CHOICES[label]) for label in self.labels}


@dataclass(frozen=True)
class TreeTask:
    """Trees on the rows that choices keep; ``offset`` names those that also go with their log-odds offset."""

    given: Given
    seed: int
    labels: tuple[str, ...]

    def run(self) -> dict[str, dict[str, Any]]:
        """Facts and test log-odds by label."""
        return {label: grown(self.given, self.seed, FOR_TREES[label]) for label in self.labels}


def grown(given: Given, seed: int, choice: TreeChoice) -> dict[str, Any]:
    """LightGBM on kept rows, all that a choice keeps of training and validation rows, as exported."""
    import trees

    rows, _, _ = load(given.file)
    source = drawn_from(rows, given.settings[1])
    known = scores(given, seed)
    label = source.both.label.double().numpy()
    policy, decision = decided(choice.choice, label, known, seed, SHARE)
    chosen = np.flatnonzero(uniform(len(label), seed, "keep") < decision.pi)
    offset = np.asarray(decision.offset) if choice.by_offset else None
    code = digest([Path(trees.__file__).read_text(), Path(shop.__file__).read_text()])
    words = hashlib.sha256(
        chosen.tobytes() + np.round(1e3 * np.log(decision.pi[chosen])).tobytes()
    ).hexdigest()

    def make() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        found = trees.fitted(given.file, chosen, decision.pi, seed, offset)
        return {"logit": found.pop("logit").astype(np.float32)}, found

    found = kept_or_made(given.place("trees", seed, choice.by_offset, words, code), make)
    return found | {"policy": policy, "positive": float(label[chosen].mean())}


def run_task(task: Any) -> Any:
    """In a worker."""
    return task.run()


# ---------------------------------------------------------------- sets


@dataclass
class Lab:
    """Sets, their settings and the pool that fits them."""

    root: Path
    data: Path
    pool: Any
    quick: bool
    sets: tuple[str, ...] = (*SIMULATED, "trivago", "taobao")
    found: dict[str, list[Given]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    def seeds(self, number: int) -> int:
        """So many, or two."""
        return min(number, 2) if self.quick else number

    @property
    def small(self) -> tuple[str, ...]:
        """The sets on which policies and trees are compared."""
        return ("sim-4-quick",) if self.quick else self.sets

    def name(self, name: str) -> str:
        """The set, or the small table in its place."""
        return "sim-4-quick" if self.quick else name

    def given(self, name: str) -> list[Given]:
        """The blocks of a set with the settings that the search chose."""
        if name not in self.found:
            files = (
                [shop.made(name, self.root)]
                if name in shop.TABLES
                else fits.prepare(name, self.root, self.data)
            )
            source = MILLION if name.startswith("sim") and not self.quick else name
            searched = [shop.made(source, self.root)] if name in shop.TABLES else files
            chosen = [fits.settings_of(file, self.pool) for file in searched]
            self.words[name] = "; ".join(dict.fromkeys(words["words"] for _, _, words in chosen))
            self.found[name] = [
                Given(
                    file,
                    model.model_dump_json(),
                    settled(name, training, found["training"], len(load(file)[0].train)).model_dump_json(),
                )
                for file, (model, training, found) in zip(files, chosen, strict=True)
            ]
        return self.found[name]

    def grown(self, name: str, seeds: int) -> Fitted:
        """Trees on what every choice keeps, seed by seed."""
        blocks = self.given(name)
        tasks = [TreeTask(given, seed, tuple(FOR_TREES)) for seed in range(seeds) for given in blocks]
        return self.merged(name, self.pool.map(run_task, tasks, chunksize=1))

    def fitted(
        self, name: str, labels: tuple[str, ...], seeds: int, caps: tuple[float, float] | None = None
    ) -> Fitted:
        """All rows and these choices, seed by seed; ``caps`` as in :class:`Given`."""
        blocks = self.given(name)
        whole = [Task(given, seed) for seed in range(seeds) for given in blocks]
        capped = [replace(given, caps=caps) for given in blocks]
        parts = [Task(given, seed, labels) for seed in range(seeds) for given in capped]
        done = self.pool.map(run_task, [*whole, *parts], chunksize=1)
        return self.merged(
            name, [one | two for one, two in zip(done[: len(whole)], done[len(whole) :], strict=True)]
        )

    def merged(self, name: str, done: list[dict[str, dict[str, Any]]]) -> Fitted:
        """Results of all blocks of a seed, seed after seed, by label."""
        blocks = self.given(name)
        by_seed = [done[at : at + len(blocks)] for at in range(0, len(done), len(blocks))]
        arms = {label: [[block[label] for block in seed] for seed in by_seed] for label in done[0]}
        return Fitted(name, Truth.of([given.file for given in blocks]), arms)


def settled(name: str, training: Training, searched: dict[str, Any], rows: int) -> Training:
    """The search's settings as a set is fitted with them.

    Simulated tables share one search; its weight decay is scaled to the rows of each. Their judged fit is left as it
    is, to save time.
    """
    if name not in shop.TABLES:
        return training
    own = scaled(searched, min(1.0, fits.SEARCH_ROWS / rows))
    return training.model_copy(update={**own, "refit": False})


def has_norms(given: Given) -> bool:
    """Whether a set's pilots also gave exact norms: on all but the two large tables."""
    return Path(given.file).stem not in (MILLION, MILLIONS)


@dataclass(frozen=True)
class Truth:
    """What the test rows were: labels, and on simulated tables their probabilities."""

    label: Floats
    p: Floats | None

    @classmethod
    def of(cls, files: list[str]) -> Truth:
        """Of the pooled blocks of a set."""
        label = np.concatenate([load(file)[0].test.label.double().numpy() for file in files])
        held = (
            torch.load(files[0], weights_only=True, mmap=True) if Path(files[0]).stem in shop.TABLES else {}
        )
        return cls(label, held["p"].double().numpy() if "p" in held else None)

    def auc(self, logit: Floats) -> float:
        """Expected where the truth is known, else of the labels."""
        return (
            shop.expected_auc(logit, self.p)
            if self.p is not None
            else float(roc_auc_score(self.label, logit))
        )

    def loss(self, logit: Floats) -> float:
        """Mean log-loss, expected where the truth is known."""
        y = self.p if self.p is not None else self.label
        logit = np.asarray(logit, float)
        return float(np.mean(np.logaddexp(0, logit) - y * logit))


Blocks = list[dict[str, Any]]


@dataclass(frozen=True)
class Fitted:
    """Fits of a set: label -> seed -> block."""

    name: str
    truth: Truth
    arms: dict[str, list[Blocks]]

    def values(self, label: str, of: Callable[[Floats], float]) -> Floats:
        """A figure of every seed's pooled predictions."""
        return np.array([of(pooled(blocks)) for blocks in self.arms[label]])

    def lost(self, label: str) -> Floats:
        """AUC minus that of all rows, seed by seed."""
        return self.values(label, self.truth.auc) - self.values("full", self.truth.auc)

    def calibration(self, label: str) -> Floats:
        """Mean prediction over that of all rows, seed by seed."""
        return self.values(label, mean_p) / self.values("full", mean_p)

    def fact(self, label: str, name: str) -> float:
        """The mean of a fact."""
        return float(np.mean([block[name] for blocks in self.arms[label] for block in blocks]))

    def cost(self, label: str) -> tuple[float, dict[str, float]]:
        """Processor time over that of the full fit, and its parts."""
        whole = self.fact("full", "seconds")
        read = ("pilot", "scoring", "selection", "retrain")
        taken = [block["seconds"] for blocks in self.arms[label] for block in blocks]
        parts = {part: float(np.mean([seconds[part] for seconds in taken])) / whole for part in read}
        return sum(parts.values()), parts


def pooled(blocks: Blocks) -> Floats:
    """Test logits of all blocks."""
    return np.concatenate([np.asarray(block["logit"], float) for block in blocks])


def mean_p(logit: Floats) -> float:
    """Mean predicted probability."""
    return float((1 / (1 + np.exp(-logit))).mean())


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """A t-interval of the mean."""
    if len(values) < 2:
        return float("nan"), float("nan")
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * stats.sem(values))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def share_words(parts: dict[str, float]) -> str:
    """Parts of the full fit's time in one line."""
    return ", ".join(f"{name} {value:.3f}" for name, value in parts.items())


def within(line: Line, low: float, high: float) -> Line:
    """A line whose value must lie between two bars."""
    return {**line, "bar": [low, high], "holds": bool(low <= line["value"] <= high)}


# ---------------------------------------------------------------- measures


def trivago_tenth(lab: Lab) -> Iterator[Line]:
    """What a tenth of trivago costs."""
    name = lab.name("trivago")
    found = lab.fitted(name, (DEFAULT,), lab.seeds(8))
    lost = found.lost(DEFAULT)
    low = interval(lost, 0.90)[0]
    cost, parts = found.cost(DEFAULT)
    line = said(
        f"{name}: {DEFAULT}, 10 % - full, AUC",
        list(lost),
        -0.0025,
        note=f"lower end of the 90 % interval {low:+.4f} (bar -.0035); full"
        f" {found.values('full', found.truth.auc).mean():.4f}; processor time {cost:.2f} of the full fit"
        f" ({share_words(parts)}); batch {found.fact(DEFAULT, 'batch'):.0f}, passes"
        f" {found.fact(DEFAULT, 'epochs'):.1f}; settings {lab.words[name]}",
    )
    yield {**line, "holds": bool(line["holds"] and low >= -0.0035)}
    yield from calibration_lines(found, DEFAULT)


def calibration_lines(found: Fitted, label: str) -> Iterator[Line]:
    """The candidate's mean prediction over that of all rows, neither corrected."""
    line = said(f"{found.name}: {label}, calibration over full", list(found.calibration(label)), 0.97)
    own = (
        found.values("full", mean_p).mean()
        / (found.truth.p if found.truth.p is not None else found.truth.label).mean()
    )
    line["note"] += f"full over truth {own:.4f}"
    yield within(line, 0.97, 1.03) if label == DEFAULT else {**line, "bar": None, "holds": None}


def policy_table(lab: Lab) -> Iterator[Line]:
    """What a tenth costs by policy and share of positives."""
    for name in lab.small:
        unbiased = {label: choice for label, choice in CHOICES.items() if label not in BIASED}
        found = lab.fitted(name, tuple(unbiased), lab.seeds(3))
        positives = float(
            np.mean([float(load(given.file)[0].train.label.mean()) for given in lab.given(name)])
        )
        base = found.values("full", found.truth.auc)
        for label, choice in unbiased.items():
            lost, calibration = found.lost(label), found.calibration(label)
            loss = found.values(label, found.truth.loss) - found.values("full", found.truth.loss)
            policies = sorted({block["policy"] for blocks in found.arms[label] for block in blocks})
            fell = "" if policies == [choice.policy] else f"; is {', '.join(policies)} there"
            line = said(
                f"{name}: {label}, 10 % - full, AUC (no bar here)",
                list(lost),
                -1.0,
                note=f"{positives:.1%} positive; full {base.mean():.4f}; kept {found.fact(label, 'kept'):.3f}, of them"
                f" {found.fact(label, 'positive'):.3f} positive; log-loss {loss.mean():+.5f};"
                f" calibration over full {calibration.mean():.3f}; batch {found.fact(label, 'batch'):.0f},"
                f" passes {found.fact(label, 'epochs'):.1f}{fell}",
            )
            yield {**line, "bar": None, "holds": None}


def prices(lab: Lab) -> Iterator[Line]:
    """What biased policies cost, beside as many random rows; of a small table some keep one class alone."""
    if lab.quick:
        return
    name = lab.name("trivago")
    found = lab.fitted(name, ("random", *BIASED), 1)
    for label in BIASED:
        line = said(
            f"{name}: {label}, 10 % - as many random rows, AUC (no bar here)",
            list(found.lost(label) - found.lost("random")),
            -1.0,
            note=f"score abs(y - p); calibration over full {found.calibration(label).mean():.3f}",
        )
        yield {**line, "bar": None, "holds": None}


def chosen_budget(lab: Lab) -> Iterator[Line]:
    """What ``weighting.budget: auto`` chooses, see ``auto.py``."""
    import auto

    yield from auto.chosen_budget(lab)


OTHER_CAPS = ((0.5, 0.5), (0.15, 0.15))  # of the pilot's and the subset's fit, in full fits


def million(lab: Lab) -> Iterator[Line]:
    """A tenth of a million simulated rows, judged on a million fresh ones."""
    name = lab.name(MILLION)
    for label, caps, seeds in (
        (DEFAULT, None, lab.seeds(8)),
        *((DEFAULT, caps, lab.seeds(3)) for caps in OTHER_CAPS),
        ("horvitz_thompson", None, lab.seeds(3)),
        ("local_case_control", None, lab.seeds(3)),
    ):
        found = lab.fitted(name, (label,), seeds, caps)
        p = found.truth.p
        assert p is not None
        cost, parts = found.cost(label)
        as_set = label == DEFAULT and caps is None
        line = said(
            f"{name}: {label}{capped(caps)}, 10 % - full, expected AUC",
            list(found.lost(label)),
            -0.001,
            note=f"full {found.values('full', found.truth.auc).mean():.4f}, of p itself {shop.expected_auc(p, p):.4f};"
            f" processor time {cost:.2f} of the full fit ({share_words(parts)});"
            f" batch {found.fact(label, 'batch'):.0f}, passes {found.fact(label, 'epochs'):.1f}, full"
            f" {found.fact('full', 'batch'):.0f} and {found.fact('full', 'epochs'):.1f}; settings {lab.words[name]}",
        )
        yield within(line, -0.001, 0.001) if as_set else {**line, "bar": None, "holds": None}
        if caps is None:
            yield from calibration_lines(found, label)


def four_million(lab: Lab) -> Iterator[Line]:
    """What a tenth of four million simulated rows costs in processor time, all in one process."""
    name = lab.name(MILLIONS)
    for caps in (None, *OTHER_CAPS):
        found = lab.fitted(name, (DEFAULT,), 1, caps)
        cost, parts = found.cost(DEFAULT)
        line = said(
            f"{name}: pilot, scoring, selection and retraining / full fit, processor time{capped(caps)}",
            [cost],
            0.5,
            at_least=False,
            note=f"{share_words(parts)}; full fit {found.fact('full', 'seconds'):.0f} s; batch"
            f" {found.fact(DEFAULT, 'batch'):.0f}, passes {found.fact(DEFAULT, 'epochs'):.0f}; expected AUC"
            f" {found.lost(DEFAULT)[0]:+.4f}; search apart on both sides",
        )
        yield line if caps is None else {**line, "bar": None, "holds": None}


def capped(caps: tuple[float, float] | None) -> str:
    """Caps in words."""
    return f" (pilot at most {caps[0]:g}, subset {caps[1]:g} of the full fit)" if caps else ""


def boosted(lab: Lab) -> Iterator[Line]:
    """Trees on kept rows against trees on as many random rows."""
    plain = "random"
    others = tuple(label for label in FOR_TREES if label != plain)
    lost: dict[str, dict[str, Floats]] = {label: {} for label in others}
    for name in lab.small:
        found = lab.grown(name, lab.seeds(5))
        base = found.values(plain, found.truth.auc)
        for label in others:
            lost[label][name] = found.values(label, found.truth.auc) - base
            line = said(
                f"{name}: LightGBM on 10 %, {label} - random rows, AUC",
                list(lost[label][name]),
                -0.0005,
                note=f"random {base.mean():.4f}; rows {found.fact(label, 'rows'):.0f} and"
                f" {found.fact(plain, 'rows'):.0f}, {found.fact(label, 'positive'):.3f} positive; rounds"
                f" {found.fact(label, 'rounds'):.0f} and {found.fact(plain, 'rounds'):.0f}; log-loss"
                f" {(found.values(label, found.truth.loss) - found.values(plain, found.truth.loss)).mean():+.5f}",
            )
            yield line
    for label in others:
        worst = min(lost[label], key=lambda name: lost[label][name].mean())
        above = [name for name, values in lost[label].items() if interval(values)[0] > 0]
        yield said(
            f"LightGBM, {label}: worst set",
            [float(lost[label][worst].mean())],
            -0.0005,
            note=f"{worst}; interval above 0 on {', '.join(above) or 'none'}",
        )


MEASURES: dict[str, Callable[[Lab], Iterator[Line]]] = {
    "trivago": trivago_tenth,
    "policies": policy_table,
    "million": million,
    "cost": four_million,
    "trees": boosted,
    "auto": chosen_budget,
    "prices": prices,
}


def main() -> int:
    """Run the measures in turn and print their lines."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", default="runs/weighting")
    parser.add_argument("--data", default=str(HERE.parent.parent / "shared" / "data"))
    parser.add_argument("--measures", default=",".join(MEASURES))
    parser.add_argument("--sets", default=",".join(Lab.sets), help="of the measures policies and trees")
    parser.add_argument("--quick", action="store_true", help="two seeds of one small simulated table")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    root = Path(options.root)
    root.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        lab = Lab(root, Path(options.data), pool, options.quick, tuple(options.sets.split(",")))
        for name in options.measures.split(","):
            for line in MEASURES[name](lab):
                print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
