"""Model inputs, described without code: what each is made from, which are kept, and what embeddings start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from sie_spark.platform.config.base import Settings
from sie_spark.platform.config.names import SAMPLE, SAMPLE_PREFIXES
from sie_spark.platform.errors import ConfigError

_IDS = {"min_count", "hash_size", "max_vocabulary"}
# what a kind reads beside column, name, kind and expression
READ_BY = {
    "number": {"transform", "scale", "missing_indicator", "back_off"},
    "category": _IDS,
    "bag": _IDS | {"length", "shares"},
    "sequence": _IDS | {"length", "shares"},
    "text": _IDS | {"length", "ngrams"},
    "vector": {"size", "components", "missing_indicator"},
}


class Feature(Settings):
    """One model input from one impression column."""

    column: str = Field(description="column of table impressions")
    name: str | None = Field(None, description="name of the model input; default: the column")
    kind: Literal["category", "number", "bag", "text", "sequence", "vector"] = Field(
        description="number: itself; category: one id; bag: ids in any order; sequence: ids in order; text: ids of its"
        " words; vector: an array of numbers"
    )
    expression: str | None = Field(
        None, description="SQL over impression columns; default: the column itself"
    )
    min_count: int = Field(2, ge=1, description="category: rarer values share the out-of-vocabulary id")
    hash_size: int | None = Field(
        None, ge=2, description="category, bag, text: hash into this many ids instead"
    )
    max_vocabulary: int = Field(2_000_000, ge=2, description="ids kept, the most frequent ones")
    transform: Literal["none", "log", "quantile"] = Field(
        "none", description="number: log keeps the sign; quantile: its rank among training rows"
    )
    scale: Literal["none", "standard"] = Field(
        "standard", description="number: standard: mean 0 and deviation 1 over training rows"
    )
    missing_indicator: bool = Field(
        True, description="number, vector: an input that says where it was missing"
    )
    back_off: list[str] = Field(
        [], description="number over rate_<column>: columns of history.rates that stand in for rare values"
    )
    length: int = Field(20, ge=1, description="bag, text, sequence: ids kept a row (padded with 0)")
    ngrams: int = Field(1, ge=1, le=3, description="text: words up to this n")
    shares: str | None = Field(None, description="bag, sequence: category whose ids and embeddings it uses")
    size: int | None = Field(None, ge=1, description="vector: its length")
    components: int | None = Field(None, ge=1, description="vector: keep this many principal components")

    @property
    def input_name(self) -> str:
        """Name of the model input."""
        return self.name or self.column

    @model_validator(mode="after")
    def _agrees_with_its_kind(self) -> Feature:
        name = self.input_name
        if not name.isidentifier():
            raise feature_error(name, "this name cannot be a column of samples", "give it another 'name'")
        folded = name.casefold()
        if self.kind not in ("category", "number") and (
            folded in SAMPLE or folded.startswith(SAMPLE_PREFIXES)
        ):
            raise feature_error(
                name,
                f"a {self.kind} becomes a column of samples, and this name is taken there",
                f"give it another 'name', e.g. own_{folded.lstrip('_')}",
            )
        for setting in sorted(self._given() - READ_BY[self.kind]):
            if kinds := [kind for kind, read in READ_BY.items() if setting in read]:
                said = f"a {self.kind} has no {setting}; it is for {', '.join(kinds)}"
                raise feature_error(name, said, f"leave out {setting}")
        if self.kind == "vector" and self.size is None:
            raise feature_error(name, "a vector needs its size", "set size to the length of the arrays")
        if (self.components or 0) > (self.size or 0):
            said = f"a vector of size {self.size} has no {self.components} components"
            raise feature_error(name, said, f"set components to {self.size} or less, or leave it out")
        unread = sorted((_IDS - {"hash_size"}) & self._given())
        if self.hash_size is not None and unread:
            said = f"hashing counts no values, so {', '.join(unread)} would do nothing beside hash_size"
            raise feature_error(name, said, f"leave out {', '.join(unread)}, or hash_size for a vocabulary")
        if self.back_off and (self.expression or not self.column.startswith("rate_")):
            raise feature_error(name, "only a number over rate_<column> can back off", "see history.rates")
        owned = sorted(_IDS & self._given())
        if self.shares and owned:
            said = f"it uses the ids of '{self.shares}', so {', '.join(owned)} would do nothing"
            raise feature_error(name, said, f"set {', '.join(owned)} on '{self.shares}', or leave out shares")
        return self

    def _given(self) -> set[str]:
        """Settings that were given; a default that is written out, as in a logged configuration, says nothing."""
        fields = type(self).model_fields
        return {name for name in self.model_fields_set if getattr(self, name) != fields[name].default}


def check_features(features: Sequence[Feature]) -> None:
    """Refuse features that do not go together.

    Raises
    ------
    ConfigError
        naming both: one name for two features or for one and the other's indicator (Spark does not tell upper
        from lower case), ids shared with something that is no category.
    """
    seen: dict[str, str] = {}
    numbers = {one.input_name.casefold(): one.input_name for one in features if one.kind == "number"}
    categories = [one.input_name for one in features if one.kind == "category"]
    for feature in features:
        name = feature.input_name
        if (other := seen.get(name.casefold())) is not None:
            said = "this name is used twice" if other == name else f"'{other}' has this name in other letters"
            raise feature_error(name, said, "give one of them another 'name'")
        seen[name.casefold()] = name
        indicator = numbers.get(f"{name}_missing".casefold())
        if feature.kind in ("number", "vector") and feature.missing_indicator and indicator:
            raise feature_error(
                name,
                f"its missing_indicator has the name of feature '{indicator}'",
                f"give '{indicator}' another 'name', or set missing_indicator: false on '{name}'",
            )
        if feature.shares and feature.shares not in categories:
            raise feature_error(
                name, f"shares '{feature.shares}', which is no category", "name a feature of kind category"
            )


def feature_error(name: str, message: str, remedy: str) -> ConfigError:
    """An error about one feature."""
    return ConfigError(f"dataset.features '{name}': {message}", remedy=remedy)


class Selection(Settings):
    """Which features are worth their place, judged on a sample of training rows after every size is frozen."""

    methods: list[Literal["information", "l1", "recursive"]] = Field(
        [], description="information: mutual information with the label; empty: no selection"
    )
    votes: int = Field(2, ge=1, description="methods that must agree before a feature is dropped")
    apply: bool = Field(False, description="drop them; otherwise the report only says what it would drop")
    keep: list[str] = Field([], description="never dropped; start_vectors keeps its two")
    rows: int = Field(20_000, ge=100, description="sample of training rows; its last quarter judges")
    significance: float = Field(0.001, gt=0, lt=1, description="information: level of the G-test")

    @field_validator("methods")
    @classmethod
    def _each_votes_once(cls, methods: list[str]) -> list[str]:
        twice = [name for name in dict.fromkeys(methods) if methods.count(name) > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)} is named twice, and each method has one vote")
        return methods


class StartVectors(Settings):
    """Matrix factorisation of who clicked what, as first values of embedding tables."""

    user: str = Field("user_id", description="feature of kind category")
    item: str = Field("item_id", description="feature of kind category")
    components: int = Field(16, ge=1, description="model.embedding_dim, to be of use to the model")
    pairs: int = Field(2_000_000, ge=100, description="clicks read; above that, those of a sample of users")
    scale: float = Field(0.05, gt=0, description="root mean square of the exported values")
