"""Stage ``train`` with validation rows: search, judged fits, refits; nothing looks at test rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.encoded_samples import planted_rows, settings, write_samples
from sie_spark.importance import score
from sie_spark.models.store import before_refit, load_model, require_model
from sie_spark.platform.errors import StageOrderError
from sie_spark.training import retrain, train
from sie_spark.training.tuning import fit_settings
from sie_spark.weighting import weigh

pytestmark = pytest.mark.spark

ROWS = {"validation_rows": 400, "test_rows": 300}


def config(**training: Any) -> dict[str, Any]:
    return settings(
        model={"name": "lr"},
        training={"tune": "auto", "tune_rows": 800, "batch_size": 64, "epochs": 3, **training},
        pilot={"fraction": 0.5},
        weighting={"budget": 0.4},
        arms={"random": None},
    )


def planted_test_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows, but for test rows that would turn every choice: turned labels, numbers a hundred times as large."""
    other = frame.copy()
    tested = np.arange(len(frame)) >= len(frame) - ROWS["test_rows"]
    other.loc[tested, "label"] = 1 - other.loc[tested, "label"]
    other["dense"] = [x * 100 if t else x for x, t in zip(frame["dense"], tested, strict=True)]
    return other


def weights(context: Any, name: str) -> torch.Tensor:
    model, _ = load_model(require_model(context.root, name).path)
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def test_search_fits_and_refits_and_no_test_row_is_looked_at(make_context: Any, tmp_path: Path) -> None:
    frame = planted_rows(1900, base=-1.5)
    contexts = [make_context(config(), root=tmp_path / name) for name in ("as it is", "planted")]
    results = []
    for context, rows in zip(contexts, (frame, planted_test_rows(frame)), strict=True):
        write_samples(context, rows, **ROWS)
        results.append(train.run(context))
    one, two = (result.details["search"] for result in results)
    for found in (one, two):
        for outcome in found["outcomes"]:
            outcome.pop("seconds")
    assert one["outcomes"] == two["outcomes"] and one["words"] == two["words"]
    for name in ("pilot", "reference"):
        assert torch.equal(weights(contexts[0], name), weights(contexts[1], name))

    assert one["validation_positives"] >= 50 and not results[0].cautions
    context, arms = contexts[0], results[0].details["arms"]
    assert one["rows"] == pytest.approx(800, abs=100) and len(one["outcomes"]) >= 8
    reference = arms["reference"]
    assert (reference["validated"]["rows"], reference["rows"]) == (1200, 1600)
    assert reference["epochs"] == reference["validated"]["best_epoch"]
    assert len(reference["validated"]["validation"]) == reference["validated"]["epochs"]
    assert before_refit(context.root, require_model(context.root, "reference")).endswith("validated/model.pt")
    # the choice serves every later fit, and no stage makes another
    chosen = fit_settings(context, context.catalog.ref("samples"), "planted")
    assert chosen.training.learning_rate == one["training"].get("learning_rate", 0.01)
    assert train.run(context).skipped
    other = make_context(config(correct_intercept=True, cost_cap=0.3), root=tmp_path / "as it is")
    assert fit_settings(other, other.catalog.ref("samples"), "planted").found == chosen.found
    score.run(context)
    assert {row[0] for row in context.catalog.read("scores").select("split").distinct().collect()} == {
        *("train", "validation")
    }
    weigh.run(context)
    done = retrain.run(context).details["arms"]
    assert done["full"]["same_as"] == "reference"
    weighted = done["weighted"]
    assert 0.3 * 1600 < weighted["rows"] < 0.5 * 1600 and weighted["validated"]["rows"] < weighted["rows"]
    other = make_context(config(patience=3), root=tmp_path / "as it is")
    with pytest.raises(StageOrderError, match="has not run on these samples"):
        retrain.run(other)


def test_without_validation_rows_or_with_tune_off_the_configuration_is_taken(
    make_context: Any, tmp_path: Path
) -> None:
    context = make_context(config(), root=tmp_path / "none")
    write_samples(context, planted_rows(900, base=-1.5), test_rows=100)
    result = train.run(context)
    assert result.details["search"] == {} and "validated" not in result.details["arms"]["reference"]
    off = make_context(config(tune="off", refit=False), root=tmp_path / "off")
    write_samples(off, planted_rows(1900, base=-1.5), **ROWS)
    result = train.run(off)
    reference = result.details["arms"]["reference"]
    assert result.details["search"] == {} and reference["rows"] == reference["validated"]["rows"] == 1200
    assert require_model(off.root, "reference").path.endswith("validated/model.pt")


def test_an_arm_may_start_from_the_pilot(make_context: Any) -> None:
    arms = {"random": None, "tuned": {"start": "pilot", "freeze": ["input"]}}
    context = make_context({**config(tune="off"), "arms": arms})
    write_samples(context, planted_rows(1900, base=-1.5), **ROWS)
    train.run(context)
    score.run(context)
    weigh.run(context)
    retrain.run(context)
    pilot, tuned, fresh = (
        load_model(require_model(context.root, name).path)[0].state_dict()
        for name in ("pilot", "tuned", "weighted")
    )
    table = "input.embedding.table.weight"
    assert torch.equal(pilot[table], tuned[table]) and not torch.equal(pilot[table], fresh[table])
    assert not torch.equal(pilot["output.weight"], tuned["output.weight"])
