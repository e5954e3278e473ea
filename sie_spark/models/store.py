"""Models and training states on disk: who wrote them, where they lie, how they come back."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import dataclass
from typing import Any

import torch
from pyarrow.fs import FileType
from torch import nn

from sie_spark.models import build_model
from sie_spark.platform.config import Model
from sie_spark.platform.config.base import validate
from sie_spark.platform.errors import ModelError, StageOrderError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.root import Root, locate, read_bytes

FORMAT = 1
FIT = "fit"
VALIDATED = "validated"
PILOT, REFERENCE = "pilot", "reference"
STAGE_OF = {PILOT: "train", REFERENCE: "train"}


@dataclass(frozen=True)
class SavedModel:
    """Where a fitted arm lies."""

    arm: str
    fingerprint: str
    path: str
    details: dict[str, Any]
    encoder: str | None = None  # fingerprint of the encoder whose rows it was fitted on


def save_model(
    root: Root,
    model: nn.Module,
    *,
    arm: str,
    fingerprint: str,
    settings: Model,
    inputs: InputSpec,
    encoder: str | None = None,
    part: str = FIT,
    epoch: int | None = None,
) -> str:
    """Write ``model.pt`` into the model's folder, or ``epoch-<k>.pt`` beside it; returns its path or URI."""
    name = "model.pt" if epoch is None else f"epoch-{epoch}.pt"
    data = {
        "format_version": FORMAT,
        "arm": arm,
        "fingerprint": fingerprint,
        "state_dict": model.state_dict(),
        "model": settings.model_dump(mode="json"),
        "inputs": inputs.as_dict(),
        "encoder": encoder,
    }
    return root.write_bytes(_dump(data), *model_folder(arm, fingerprint, part), name)


def model_folder(arm: str, fingerprint: str, part: str = FIT) -> tuple[str, ...]:
    """Where the files of a fit lie under the root; the fit that was judged on validation rows lies below it."""
    return ("models", arm, fingerprint, *([] if part == FIT else [part]))


def load_model(uri: str) -> tuple[nn.Module, InputSpec]:
    """The model of a ``model.pt``, in eval mode, and the inputs it takes.

    Raises
    ------
    ModelError
        when the file is of a newer format, or does not fit the model's class any more.
    """
    return model_from_bytes(read_bytes(uri), where=uri)


def model_from_bytes(data: bytes, *, where: str) -> tuple[nn.Module, InputSpec]:
    """Like :func:`load_model`, for bytes already read; ``where`` names them in errors."""
    saved = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    if saved.get("format_version", 0) > FORMAT:
        raise ModelError(
            f"{where} was written by a newer sie_spark", remedy="install that version, or fit the model anew"
        )
    spec = InputSpec.from_dict(saved["inputs"])
    model = build_model(validate(Model, saved["model"], where=where), spec, seed=0)
    try:
        model.load_state_dict(saved["state_dict"])
    except RuntimeError as error:
        raise ModelError(
            f"{where} does not fit model '{saved['model']['name']}': {str(error).splitlines()[-1].strip()}",
            remedy="the class changed since it was fitted: run 'sie train --set run.force=true'",
        ) from error
    return model.eval(), spec


def encoder_of(data: bytes, *, where: str) -> str | None:
    """Fingerprint of the encoder whose ids a saved model knows.

    Raises
    ------
    ModelError
        where the bytes are no saved model.
    """
    try:
        saved = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        found: str | None = saved["encoder"]
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(
            f"{where} is no model of this version: {type(error).__name__}",
            remedy="give a model.pt that 'sie train' or 'sie retrain' of this version wrote",
        ) from None
    return found


def encoder_beside(uri: str, name: str | None) -> str:
    """Path or URI of an encoder that lies where a model lies: under its root, or in its own folder.

    Raises
    ------
    ModelError
        where it is in neither.
    """
    folder = uri.rpartition("/")[0]
    for place in (folder, f"{folder.partition('/models/')[0]}/encoders"):
        filesystem, path = locate(f"{place}/{name}.json")
        if filesystem.get_file_info(path).type == FileType.File:
            return f"{place}/{name}.json"
    raise ModelError(
        f"encoder {name} of {uri} is not beside it, so its ids cannot be told",
        remedy="copy the root's folder 'encoders' with the model, or start from a model of this root",
    )


def before_refit(root: Root, saved: SavedModel) -> str:
    """Path or URI of the model that has not seen the validation rows, where there were some; else of the model."""
    folder = _folder(saved.path)
    if folder[-1] != VALIDATED and root.exists("models", *folder, VALIDATED, "model.pt"):
        return root.path("models", *folder, VALIDATED, "model.pt")
    return saved.path


def _folder(path: str) -> list[str]:
    """The folders between ``models`` and a file."""
    return path.rpartition("/")[0].rpartition("/models/")[2].split("/")


def kept_epochs(root: Root, path: str) -> dict[int, str]:
    """Epoch -> path or URI of the models that a fit kept on its way, in order; see ``training.keep_epochs``.

    Parameters
    ----------
    path:
        of the model that the fit ended with.
    """
    folder, found = _folder(path), {}
    for name in root.entries("models", *folder):
        if name.startswith("epoch-"):
            found[int(name.removeprefix("epoch-").removesuffix(".pt"))] = root.path("models", *folder, name)
    return dict(sorted(found.items()))


def set_current(root: Root, saved: SavedModel) -> None:
    """Make a fitted model the current one of its arm."""
    data = {
        "fingerprint": saved.fingerprint,
        "path": _under_root(saved.path),
        "arm": saved.arm,
        "details": saved.details,
        "encoder": saved.encoder,
    }
    root.write_bytes(json.dumps(data, sort_keys=True).encode(), "models", saved.arm, "current.json")


def current_model(root: Root, arm: str) -> SavedModel | None:
    """The current model of an arm, or None."""
    if not root.exists("models", arm, "current.json"):
        return None
    data = json.loads(read_bytes(root.path("models", arm, "current.json")))
    path = root.path(_under_root(data["path"]))
    return SavedModel(arm, data["fingerprint"], path, data.get("details", {}), data.get("encoder"))


def _under_root(path: str) -> str:
    """``models/<arm>/<fingerprint>/model.pt`` of a path or URI: a root that moves keeps its models."""
    return "models/" + f"/{path}".rpartition("/models/")[2]


def require_model(root: Root, arm: str) -> SavedModel:
    """The current model of an arm.

    Raises
    ------
    StageOrderError
        when none has been fitted.
    """
    found = current_model(root, arm)
    if found is None:
        stage = STAGE_OF.get(arm, "retrain")
        raise StageOrderError(
            f"no model '{arm}' under {root.uri}",
            remedy=f"run 'sie {stage}' with the same --root and --config first, or 'sie run' for all stages",
        )
    return found


def check_encoder(saved: SavedModel, encoded: str) -> None:
    """Refuse a model that knows other ids and scales than those of the rows it is to see.

    Raises
    ------
    StageOrderError
        naming the stage to run.
    """
    if saved.encoder not in (None, encoded):
        stage = STAGE_OF.get(saved.arm, "retrain")
        raise StageOrderError(
            f"model '{saved.arm}' was fitted on rows of encoder {saved.encoder}, the samples are of {encoded}",
            remedy=f"run 'sie {stage}' with the same --root and --config first, or 'sie run' for all stages",
        )


def save_state(root: Root, folder: tuple[str, ...], state: dict[str, Any]) -> None:
    """Write a training state, whole or not at all."""
    root.write_bytes(_dump(state), *folder, "state.pt")


def load_state(root: Root, folder: tuple[str, ...]) -> dict[str, Any] | None:
    """The training state left by an interrupted fit, or None."""
    if not root.exists(*folder, "state.pt"):
        return None
    loaded: dict[str, Any] = torch.load(
        io.BytesIO(read_bytes(root.path(*folder, "state.pt"))), weights_only=True
    )
    return loaded


def _dump(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
