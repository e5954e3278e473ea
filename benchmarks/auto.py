"""Does ``weighting.budget: auto`` choose well? A measure of ``weighting.py``.

Of each set and seed the trials of the product are made on rows in memory, judged on validation rows against the fit on
all rows as it was before it saw them; then the chosen share is kept and fitted as every arm is, and judged on test rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fits
import numpy as np
from fits import load, said

import weighting as lab_of
from sie_spark.models import Batch
from sie_spark.platform.code import code_digest
from sie_spark.platform.config import Evaluation, Training
from sie_spark.training.loop import fit
from sie_spark.training.memory import RowsInMemory, mean_loss, validation_loss
from sie_spark.training.trial import Trial, logits, try_rows
from sie_spark.weighting.budget import choose
from weighting import CHOICES, DEFAULT, MILLION, Given, Lab, Line, Truth

MARGIN = Evaluation().margin  # type: ignore[call-arg]
KEPT = 0.3  # on trivago and the million rows
APART = 0.002  # predicted and realised loss


@dataclass(frozen=True)
class AutoTask:
    """The whole of ``auto`` for one seed of one block."""

    given: Given
    seed: int

    def run(self) -> dict[str, Any]:
        """Chosen share, predicted loss, trials, and test logits of the chosen and the full fit."""
        given, seed = self.given, self.seed
        rows, _, _ = load(given.file)
        model, training = given.settings
        training = training.model_copy(update={"seed": seed})
        source, known = lab_of.drawn_from(rows, training), lab_of.scores(given, seed)
        label = source.both.label.double().numpy()
        of_validation = self._full_on_validation()

        def attempt(shares: Sequence[float]) -> list[Trial]:
            trials = []
            for share in shares:
                _, decision = lab_of.decided(CHOICES[DEFAULT], label, known, seed, share)
                train, _ = fits.kept(source, decision.pi, seed, decision.offset, decision.weight)
                asked = given.budget(len(train), len(rows.train)).model_copy(update={"seed": seed})

                def tried(share: float = share, train: Batch = train, asked: Training = asked) -> Any:
                    began = time.process_time()
                    found = try_rows(
                        share,
                        train,
                        rows.validation,
                        full=of_validation,
                        spec=rows.spec,
                        model=model,
                        training=asked,
                    )
                    return {}, found.as_dict() | {"seconds": time.process_time() - began}

                code = code_digest(*lab_of.LOOP_CODE, "sie_spark.training.trial")
                place = given.place("trial", seed, asked.model_dump(), lab_of.identity(train), share, code)
                trials.append(Trial(**lab_of.kept_or_made(place, tried)))
            return trials

        found = choose(attempt, MARGIN)
        whole = lab_of.full(given, seed)
        kept = whole if found.share >= 1 else lab_of.arm(given, seed, CHOICES[DEFAULT], found.share)
        seconds = sum(trial.seconds for trial in found.trials)
        facts = found.as_dict() | {"seconds": seconds, "full_seconds": whole["seconds"]}
        return facts | {"full": whole["logit"], "logit": kept["logit"]}

    def _full_on_validation(self) -> np.ndarray:
        """Logits of the judged fit on all training rows."""
        given, seed = self.given, self.seed
        model, training = given.settings
        training = training.model_copy(update={"seed": seed})

        def make() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            rows, _, _ = load(given.file)
            one = fits.start(rows.train, rows.spec, model, seed)
            fit(
                one,
                RowsInMemory(rows.train, batch_size=training.batch_size, seed=seed),
                training,
                judge=lambda found: mean_loss(validation_loss(found, rows.validation)),
                mean_weight=float(rows.train.weight.mean()),
            )
            return {"logit": logits(one, rows.validation)}, {}

        found = lab_of.kept_or_made(given.place("judged", seed, code_digest(*lab_of.LOOP_CODE)), make)
        logit: np.ndarray = found["logit"]
        return logit


def chosen_budget(lab: Lab) -> Iterator[Line]:
    """Shares, and what they lost, set by set."""
    more = (lab.name(MILLION),) if lab.sets == Lab.sets else ()
    for name in dict.fromkeys((*lab.small, *more)):
        blocks = lab.given(name)
        seeds = lab.seeds(3)
        tasks = [AutoTask(given, seed) for seed in range(seeds) for given in blocks]
        done = lab.pool.map(lab_of.run_task, tasks, chunksize=1)
        truth = Truth.of([given.file for given in blocks])
        realised, predicted, share = [], [], []
        for at in range(0, len(done), len(blocks)):
            found = done[at : at + len(blocks)]
            one, two = (
                truth.auc(np.concatenate([np.asarray(f[key], float) for f in found]))
                for key in ("full", "logit")
            )
            realised.append(two - one)
            predicted.append(float(np.mean([f["predicted_loss"] for f in found])))
            share.append(float(np.mean([f["share"] for f in found])))
        trials = "; ".join(
            ", ".join(f"{t['share']:.0%} {t['loss']:+.4f} +-{t['error']:.4f}" for t in f["trials"])
            for f in done
        )
        cost = np.mean([f["seconds"] / f["full_seconds"] for f in done])
        kept = ", ".join(f"{one:.3f}" for one in share)
        words = " | ".join(dict.fromkeys(f["words"].partition(":")[0] for f in done))
        yield said(
            f"{name}: auto, AUC against all rows",
            realised,
            -0.003,
            note=f"kept {kept} ({words}); trials took {cost:.2f} of a full fit, apart; losses tried: {trials}",
        )
        yield said(
            f"{name}: auto, predicted - realised loss of AUC, absolute mean",
            [abs(float(np.mean(np.array(predicted) + np.array(realised))))],
            APART,
            at_least=False,
            note=f"predicted {', '.join(f'{one:+.4f}' for one in predicted)}; lost"
            f" {', '.join(f'{-one:+.4f}' for one in realised)}",
        )
        if name in (lab.name("trivago"), lab.name(MILLION)):
            yield said(f"{name}: auto, share kept", share, KEPT, at_least=False, note="")
