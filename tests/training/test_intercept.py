"""The intercept: found by its gradient, corrected where the evidence outweighs its error."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helpers.encoded_samples import SPEC, planted_rows
from helpers.sample_files import table_of
from sie_spark.models import Batch, build_model
from sie_spark.platform.config import Model
from sie_spark.platform.errors import ModelError
from sie_spark.training.intercept import (
    freeze,
    intercept_correction,
    set_output_bias,
    shift_output_bias,
)


def rows(number: int, base: float = 0.0) -> Batch:
    return Batch.from_arrow(table_of(planted_rows(number, base=base)), SPEC)


def test_the_correction_meets_the_observed_positives() -> None:
    batch, model = rows(6000), build_model(Model(name="lr"), SPEC, seed=0)
    set_output_bias(model, batch, -2.0)
    shift = intercept_correction(model, batch)
    shift_output_bias(model, batch, shift)
    with torch.no_grad():
        predicted = torch.sigmoid(model(**batch.inputs)).sum()
    assert shift > 1 and float(predicted / batch.label.sum()) == pytest.approx(1.0, abs=0.01)


def test_little_evidence_moves_nothing() -> None:
    model = build_model(Model(name="lr"), SPEC, seed=0)
    few = rows(1500, base=-2.0)
    assert float(few.label.sum()) < 1000 and intercept_correction(model, few) == 0.0
    # a gap of a fifth of its standard error is noise
    batch = rows(4000)
    set_output_bias(model, batch, 0.0)
    exact = intercept_correction(model, batch)
    shift_output_bias(model, batch, exact - 0.2 / (0.25 * 4000) ** 0.5)
    assert abs(intercept_correction(model, batch)) <= abs(exact)
    centred = build_model(Model(name="lr"), SPEC, seed=0)
    rate = float(batch.label.mean())
    set_output_bias(centred, batch, float(torch.logit(torch.tensor(rate))) + 0.005)
    assert intercept_correction(centred, batch) == 0.0


def test_rows_of_a_sampled_log_count_by_their_weight() -> None:
    batch, model = rows(6000), build_model(Model(name="lr"), SPEC, seed=0)
    doubled = replace(batch, weight=torch.where(batch.label > 0, 1.0, 4.0))
    set_output_bias(model, batch, 0.0)
    shift = intercept_correction(model, doubled)
    rate = float((doubled.weight * doubled.label).sum() / doubled.weight.sum())
    assert torch.sigmoid(torch.tensor(shift)).item() == pytest.approx(rate, abs=0.01)


def test_frozen_parts_are_named_or_refused() -> None:
    model = build_model(Model(name="dcnv2", embedding_dim=4, hidden=[8]), SPEC, seed=0)
    freeze(model, ["input", "crosses.0"])
    still = {name for name, value in model.named_parameters() if value.requires_grad}
    assert not any(name.startswith(("input.", "crosses.0.")) for name in still)
    assert any(name.startswith("crosses.1.") for name in still)
    with pytest.raises(ModelError, match="'inpu', which no parameter"):
        freeze(model, ["inpu"])
    with pytest.raises(ModelError, match="no parameter to fit"):
        freeze(model, ["input", "crosses", "deep", "output"])
