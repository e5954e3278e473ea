"""Things that are chosen by name: models, scorers, policies. One file a thing, found without a list of them."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from sie_spark.platform.errors import ConfigError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Name -> thing, filled by the modules that define them when somebody first asks.

    Parameters
    ----------
    kind:
        what one of them is, in an error: ``policy``.
    plural:
        of ``kind``.
    setting:
        where a user names one: ``weighting.policy``.
    home:
        module, or package whose modules, register the things that come with the product.
    more:
        what else may be named, in a remedy.
    """

    def __init__(self, kind: str, plural: str, *, setting: str, home: str, more: str = "") -> None:
        self.kind, self.plural, self.setting, self.home, self.more = kind, plural, setting, home, more
        self._known: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str, thing: T) -> None:
        """Make a thing known.

        Raises
        ------
        ValueError
            for a name that is taken by another one.
        """
        if name in self._known:
            raise ValueError(f"{self.kind} '{name}' is registered twice")
        self._known[name] = thing

    def add(self, name: str) -> Callable[[T], T]:
        """A decorator that makes what it stands on known."""

        def register(thing: T) -> T:
            self.register(name, thing)
            return thing

        return register

    def __getitem__(self, name: str) -> T:
        """The thing of a name.

        Raises
        ------
        ConfigError
            for a name that is not registered, with the nearest one that is.
        """
        self._load()
        if name not in self._known:
            near = difflib.get_close_matches(name, self._known, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise ConfigError(
                f"{self.setting}: unknown {self.kind} '{name}'",
                remedy=f"{hint}{self.plural}: {', '.join(sorted(self._known))}{self.more}",
            )
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._known)

    def __len__(self) -> int:
        self._load()
        return len(self._known)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        home = importlib.import_module(self.home)
        for module in pkgutil.iter_modules(getattr(home, "__path__", [])):
            importlib.import_module(f"{self.home}.{module.name}")
