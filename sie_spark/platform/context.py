"""What a stage is handed: configuration, root, session, tables, progress. Stages fetch nothing themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sie_spark.platform.catalog import Catalog
from sie_spark.platform.code import code_digest
from sie_spark.platform.config import Config
from sie_spark.platform.config.load import digest
from sie_spark.platform.progress import Progress
from sie_spark.platform.root import Root
from sie_spark.platform.session import open_session, stop_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FINGERPRINT = "__fingerprint"  # among a stage's details


@dataclass
class Context:
    """One run's surroundings."""

    config: Config
    root: Root
    progress: Progress = field(default_factory=Progress)
    session: SparkSession | None = None

    @cached_property
    def spark(self) -> SparkSession:
        """The session, opened when first asked for."""
        return self.session or open_session(self.config.session)

    @cached_property
    def catalog(self) -> Catalog:
        """The tables under the root."""
        return Catalog(self.spark, self.root)

    def fingerprint(self, stage: str, *sections: str, code: Sequence[str], **inputs: Any) -> str:
        """What a stage's output depends on: its settings, the versions it reads, the code of its formulas.

        Parameters
        ----------
        sections:
            of the configuration, see :meth:`Config.fingerprint`.
        code:
            modules and packages whose formulas made the output, see :func:`code_digest`.
        """
        return digest(
            {
                "stage": stage,
                "code": code_digest(*sorted(code)),
                "settings": self.config.fingerprint(*sections),
                "inputs": inputs,
            }
        )

    def close(self) -> None:
        """Stop a session that this context opened; one it was handed stays."""
        opened = self.__dict__.pop("spark", None)
        self.__dict__.pop("catalog", None)
        if opened is not None and self.session is None:
            stop_session(opened)

    def save_seconds(self, stage: str, seconds: float) -> None:
        """Keep how long a stage took, for the report's table of times."""
        self.save_details("seconds", {**self.load_details("seconds"), stage: round(seconds, 2)})

    def save_details(self, stage: str, details: dict[str, Any], *, fingerprint: str | None = None) -> None:
        """Keep a stage's details (quality counts, curves, examples) for the report, across processes.

        The fingerprint says that the stage came to its end with it; see :meth:`finished`.
        """
        kept = details if fingerprint is None else {**details, FINGERPRINT: fingerprint}
        text = json.dumps(kept, sort_keys=True, default=str)
        self.root.write_bytes(text.encode(), "details", f"{stage}.json")

    def load_details(self, stage: str) -> dict[str, Any]:
        """Details that an earlier run of a stage left, or an empty dict."""
        return {name: value for name, value in self._stored(stage).items() if name != FINGERPRINT}

    def up_to_date(self, fingerprint: str, *carried: str | None) -> bool:
        """Whether nothing is to be made: all that was made carries this fingerprint, and no rebuild is forced.

        This is the rule of every stage. What carries fingerprints differs: a table's newest commit, a model, an
        entry of the ledger of ingest, and the details of a stage, which say that it came to its end.
        """
        return not self.config.run.force and all(found == fingerprint for found in carried)

    def finished(
        self, stage: str, fingerprint: str, *, table: str | None = None, scope: str = ""
    ) -> dict[str, Any] | None:
        """The stage's details where it is :meth:`up_to_date` and came to its end; else None.

        The commit of its ``table`` alone does not say so: checks follow it, and a job can be killed before its
        details are kept. A stage whose table takes commits of several fingerprints gives no table.
        """
        if not self.up_to_date(fingerprint, self._stored(stage).get(FINGERPRINT)):
            return None  # the cheaper question first: the other one asks Spark
        if table is not None and not self.up_to_date(
            fingerprint, self.catalog.fingerprint(table, scope=scope)
        ):
            return None
        return self.load_details(stage)

    def _stored(self, stage: str) -> dict[str, Any]:
        return self.root.read_json("details", f"{stage}.json") or {}
