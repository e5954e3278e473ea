"""The search: what it tries, what it chooses, what it never reads."""

from __future__ import annotations

import hashlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from helpers.encoded_samples import SPEC, planted_rows
from helpers.sample_files import table_of
from sie_spark.platform.config import Model, Training
from sie_spark.platform.errors import ModelError
from sie_spark.training.search import (
    Candidate,
    Sample,
    TryOne,
    first_candidates,
    search,
    together_with,
    variations,
)
from sie_spark.training.tuning import scaled

GIVEN = Training(batch_size=256, epochs=1, learning_rate=1e-5)


def sample_of(folder: Path, train: pd.DataFrame, validation: pd.DataFrame) -> Sample:
    parts = [
        table_of(frame, first_id=first).append_column("validation", pa.array([held] * len(frame)))
        for frame, first, held in ((train, 0, False), (validation, len(train), True))
    ]
    sink, table = io.BytesIO(), pa.concat_tables(parts)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    path = folder / "sample.arrow"
    path.write_bytes(sink.getvalue())
    return Sample(str(path), hashlib.sha256(sink.getvalue()).hexdigest(), SPEC.as_dict(), len(train))


def here(function: TryOne, number: int) -> list[tuple[int, str]]:
    """Every candidate in this process."""
    batches = function(iter([pa.RecordBatch.from_pydict({"id": list(range(number))})]))
    return [(row["at"], row["outcome"]) for batch in batches for row in batch.to_pylist()]


def test_the_configuration_is_tried_first_and_a_batch_leaves_updates() -> None:
    tried = first_candidates(Model(), Training(batch_size=512), 60_000)
    assert tried[0] == Candidate({}, {}) and len(tried) == len(set(tried)) == 21
    assert {one.model.get("name") for one in tried} == {None, "lr"}
    small = first_candidates(Model(), Training(batch_size=2048), 5_000)
    assert {one.training["batch_size"] for one in small} == {64}  # of 5,000 rows: 78 updates a pass
    own = first_candidates(Model(name="shop.models:Ours"), Training(), 60_000)
    assert all(not one.model for one in own) and len(own) == 5


def test_a_variation_changes_one_thing() -> None:
    one = Candidate({"embedding_dim": 8}, {"learning_rate": 0.004, "batch_size": 128, "epochs": 4})
    for other in variations(one, Model(), Training()):
        assert {**other.model, **one.model} == other.model and {*one.training} <= {*other.training}
        assert other != one
    assert not any(other.model != {} for other in variations(Candidate({}, {}), Model(name="lr"), Training()))


def test_variations_that_help_are_tried_together() -> None:
    one = Candidate({"wide": True}, {"learning_rate": 0.004, "weight_decay": 1.0})
    others = [
        Candidate({"wide": True}, {"learning_rate": 0.002, "weight_decay": 1.0}),
        Candidate({"wide": True, "dropout": 0.3}, {"learning_rate": 0.004, "weight_decay": 1.0}),
        Candidate({"wide": True}, {"learning_rate": 0.008, "weight_decay": 1.0}),
    ]
    assert together_with(one, others) == Candidate(
        {"wide": True, "dropout": 0.3}, {"learning_rate": 0.002, "weight_decay": 1.0}
    )


def test_a_fit_that_learns_nothing_is_replaced(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, planted_rows(900, seed=1), planted_rows(900, seed=2))
    best, outcomes = search(here, sample, Model(), GIVEN)
    given = [
        o.loss for o in outcomes if o.candidate.words.startswith("batch_size=32") and not o.candidate.model
    ]
    found = min(outcome.loss for outcome in outcomes if outcome.rows == 900)
    assert found < min(given) - 0.002
    assert best in [outcome.candidate for outcome in outcomes if outcome.loss == found]
    # few rows of a linear truth: the choice may be the linear model, and must not be far from it
    assert found < 1.02 * min(
        o.loss for o in outcomes if o.candidate.model.get("name") == "lr" and o.rows == 900
    )


def test_a_candidate_that_no_variation_betters_stays(tmp_path: Path) -> None:
    """Every outcome the same: nothing is left to try together, and the configuration is as good as any."""
    sample = sample_of(tmp_path, planted_rows(64, seed=1), planted_rows(64, seed=2))
    same = json.dumps({"rows": 64, "loss": 0.5, "epochs": 1, "seconds": 0.0})
    best, outcomes = search(lambda _, number: [(at, same) for at in range(number)], sample, Model(), GIVEN)
    assert best == first_candidates(Model(), GIVEN, 64)[0] and len(outcomes) > 21


def test_later_rounds_may_fail_as_a_whole(tmp_path: Path) -> None:
    """A doubled rate that diverges is no reason to give up what was found before it."""
    sample, rounds = sample_of(tmp_path, planted_rows(64, seed=1), planted_rows(64, seed=2)), []

    def run(_: TryOne, number: int) -> list[tuple[int, str]]:
        rounds.append(number)
        said = {"rows": 64, "seconds": 0.0}
        said |= {"loss": 0.5, "epochs": 1} if len(rounds) < 3 else {"error": "the loss is not finite"}
        return [(at, json.dumps(said)) for at in range(number)]

    best, outcomes = search(run, sample, Model(), GIVEN)
    assert best == first_candidates(Model(), GIVEN, 64)[0] and len(rounds) > 2
    assert outcomes[-1].error and outcomes[-1].as_dict()["loss"] is None


def test_all_that_fail_are_named(tmp_path: Path) -> None:
    frame = planted_rows(300, seed=1)
    frame["dense"] = [np.array([np.nan, 1.0], np.float32)] * len(frame)
    with pytest.raises(ModelError, match="every candidate of the search failed"):
        search(here, sample_of(tmp_path, frame, frame), Model(), GIVEN)


def test_validation_rows_alone_decide(tmp_path: Path) -> None:
    """Turned labels in the validation part turn the order of candidates, whatever the training part says."""
    train, validation = planted_rows(2000, seed=1), planted_rows(1000, seed=2)
    turned = validation.assign(label=1 - validation["label"])
    losses = []
    for number, frame in enumerate((validation, turned)):
        folder = tmp_path / str(number)
        folder.mkdir()
        tried = TryOne(
            sample_of(folder, train, frame),
            tuple(
                (Model(name="lr").model_dump(), Training(batch_size=64, epochs=e).model_dump())
                for e in (1, 4)
            ),
            1.0,
        )
        outcomes = [tried.outcome(at) for at in range(2)]
        assert all(math.isfinite(outcome["loss"]) for outcome in outcomes)
        losses.append([outcome["loss"] for outcome in outcomes])
    assert losses[0][1] < losses[0][0] and losses[1][1] >= losses[1][0]


def test_weight_decay_is_scaled_from_the_sample_to_all_rows() -> None:
    assert scaled({"weight_decay": 4.0, "epochs": 2}, 0.06) == {"weight_decay": 0.24, "epochs": 2}
    assert scaled({"epochs": 2}, 0.06) == {"epochs": 2}
