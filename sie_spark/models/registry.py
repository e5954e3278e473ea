"""Models by name, and the user's own by ``package.module:Class``."""

from __future__ import annotations

import importlib
import inspect

import torch
from torch import nn

from sie_spark.platform.config import Model
from sie_spark.platform.errors import ModelError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.registry import Registry

MODELS: Registry[type[nn.Module]] = Registry(
    "model",
    "models",
    setting="model.name",
    home="sie_spark.models.ctr",
    more=", or your own as package.module:Class",
)


def build_model(settings: Model, inputs: InputSpec, *, seed: int) -> nn.Module:
    """A fresh model, the same weights for the same seed.

    A user's class is called as ``Class(inputs, **model.options)``; its ``forward(cat, dense, **extras)``
    returns one logit a row, float32 [N].

    Raises
    ------
    ConfigError
        for an unknown name.
    ModelError
        for a class that cannot be imported or built, or a ``forward`` that does not take
        the encoded columns.
    """
    name = settings.name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            if ":" in name:
                model = _user_class(name)(inputs, **settings.options)
            else:
                model = MODELS[name](inputs, settings, **settings.options)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"model '{name}' cannot be built: {error}",
                remedy="a class takes (inputs, **model.options); check model.options and the features",
            ) from error
    _check_forward(model, inputs, name)
    return model


def model_code(settings: Model, *more: str) -> tuple[str, ...]:
    """The modules that a model's output depends on, a user's own among them, and ``more``."""
    own = [settings.name.partition(":")[0]] if ":" in settings.name else []
    return ("sie_spark.models", *own, *more)


def check_model(settings: Model) -> None:
    """Raise :class:`ConfigError` or :class:`ModelError` unless the model's name leads to a class."""
    _ = _user_class(settings.name) if ":" in settings.name else MODELS[settings.name]


def _user_class(name: str) -> type[nn.Module]:
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"model '{name}' cannot be imported: {error}",
            remedy="install the package where the driver and the workers run, and check package.module:Class",
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ModelError(
            f"model '{name}' is not a torch.nn.Module class", remedy="point model at the class itself"
        )
    return found


def _check_forward(model: nn.Module, inputs: InputSpec, name: str) -> None:
    parameters = inspect.signature(model.forward).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    missing = [column for column in inputs.columns if column not in parameters]
    if missing:
        raise ModelError(
            f"model '{name}': forward() does not take {', '.join(missing)}",
            remedy=f"declare forward(self, {', '.join(inputs.columns)}), or end it with **extras",
        )
