"""Models and training states on disk: who wrote them, where they lie, how they come back."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sie_spark.models import build_model
from sie_spark.platform.config import Model
from sie_spark.platform.config.base import validate
from sie_spark.platform.errors import ModelError, StageOrderError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.root import Root, read_bytes

FORMAT = 1
STAGE_OF = {"reference": "train"}


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
    epoch: int | None = None,
) -> str:
    """Write ``models/<arm>/<fingerprint>/model.pt``, or ``epoch-<k>.pt`` beside it; returns its path or URI."""
    name = "model.pt" if epoch is None else f"epoch-{epoch}.pt"
    data = {
        "format_version": FORMAT,
        "arm": arm,
        "fingerprint": fingerprint,
        "state_dict": model.state_dict(),
        "model": settings.model_dump(mode="json"),
        "inputs": inputs.as_dict(),
    }
    return root.write_bytes(_dump(data), "models", arm, fingerprint, name)


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


def kept_epochs(root: Root, saved: SavedModel) -> dict[int, str]:
    """Epoch -> path or URI of the models that a fit kept on its way, in order; see ``training.keep_epochs``."""
    folder = saved.path.rpartition("/")[0].rpartition("/models/")[2].split("/")
    found = {}
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
