"""Models and encoders belong to their root, and a model to the encoder whose rows it was fitted on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.encoded_samples import SPEC, settings
from sie_spark.features.samples import encoder
from sie_spark.models.store import SavedModel, check_encoder, current_model, set_current
from sie_spark.platform.config import Config
from sie_spark.platform.config.base import validate
from sie_spark.platform.context import Context
from sie_spark.platform.errors import StageOrderError
from sie_spark.platform.root import Root
from sie_spark.training.retrain import check_subset


def encoded(folder: Path, name: str = "one") -> Context:
    """A context whose root has an encoder."""
    ctx = Context(validate(Config, settings(), where="test"), Root(folder))
    artefact: dict[str, Any] = {"format_version": 1, "inputs": SPEC.as_dict()}
    path = ctx.root.write_bytes(json.dumps(artefact).encode(), "encoders", f"{name}.json")
    pointer = {"fingerprint": name, "path": path}
    ctx.root.write_bytes(json.dumps(pointer).encode(), "encoders", "current.json")
    return ctx


def test_a_root_that_moved_reads_its_own_files(tmp_path: Path) -> None:
    old = encoded(tmp_path / "models" / "old")
    for arm, folder in (("reference", "reference"), ("full", "reference")):  # full may be the reference model
        path = old.root.path("models", folder, "f", "model.pt")
        set_current(old.root, SavedModel(arm, "f", path, {"rows": 1}, "one"))
    shutil.move(tmp_path / "models" / "old", tmp_path / "new")
    new = Context(old.config, Root(tmp_path / "new"))
    assert encoder(new) == ("one", SPEC)
    for arm in ("reference", "full"):
        found = current_model(new.root, arm)
        assert found is not None and found.path == str(tmp_path / "new/models/reference/f/model.pt")
        assert (found.details, found.encoder) == ({"rows": 1}, "one")


def test_a_pointer_with_an_absolute_path_is_read_under_the_root(tmp_path: Path) -> None:
    root = Root(tmp_path)
    pointer = {"fingerprint": "f", "path": "s3://elsewhere/models/a/models/weighted/f/model.pt"}
    root.write_bytes(json.dumps(pointer).encode(), "models", "weighted", "current.json")
    found = current_model(root, "weighted")
    assert found is not None and found.path == root.path("models", "weighted", "f", "model.pt")
    check_encoder(found, "any")  # it does not say which encoder it knows


@pytest.mark.parametrize(("arm", "stage"), [("reference", "sie train"), ("weighted", "sie retrain")])
def test_a_model_of_another_encoder_is_refused(arm: str, stage: str) -> None:
    saved = SavedModel(arm, "f", "x", {}, "one")
    check_encoder(saved, "one")
    with pytest.raises(StageOrderError, match=f"'{arm}' was fitted on rows of encoder one") as caught:
        check_encoder(saved, "two")
    assert stage in caught.value.remedy


def test_a_subset_of_another_encoder_is_refused(tmp_path: Path) -> None:
    ctx = encoded(tmp_path)
    check_subset(ctx, "one")
    ctx.save_details("weigh", {"encoder": "one"})
    check_subset(ctx, "one")
    with pytest.raises(StageOrderError, match="training_set was drawn from rows of encoder one"):
        check_subset(ctx, "two")


def test_an_encoder_whose_samples_were_never_written_is_refused(tmp_path: Path) -> None:
    ctx = encoded(tmp_path, "two")
    ctx.save_details("encode", {"encoder": "one"})
    with pytest.raises(StageOrderError, match="cut short") as caught:
        encoder(ctx)
    assert "sie encode" in caught.value.remedy
