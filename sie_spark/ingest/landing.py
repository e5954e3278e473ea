"""Where the rows of an incremental source wait to be published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import DataFrame

from sie_spark.ingest.canonical import Canonical
from sie_spark.ingest.holdings import mapping_digest
from sie_spark.ingest.staging import FOLDER, LANDING
from sie_spark.platform.catalog import has_commits
from sie_spark.platform.config.load import digest
from sie_spark.platform.failures import readable
from sie_spark.platform.tables import session_settings, types_of, vacuum_now

if TYPE_CHECKING:
    from sie_spark.platform.context import Context

# landed rows are read once; their Delta log would keep the extremes of identifiers after they are forgotten
NO_STATISTICS = {"spark.databricks.delta.properties.defaults.dataSkippingNumIndexedCols": "0"}


class Landing:
    """Where the rows of an incremental source wait to be published, one place a mapping."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.mapping = mapping_digest(ctx)  # a place of its own for each
        self.place = (FOLDER, f"{LANDING}{self.mapping}")
        self.checkpoint = ("checkpoints", f"ingest-{self.mapping}")
        self.path = ctx.root.path(*self.place)

    def take(self, canonical: Canonical, source: str) -> None:
        """Land what came since the last time."""
        with readable(source), session_settings(self.ctx.spark, NO_STATISTICS):
            query = (
                canonical.frame.writeStream.format("delta")
                .option("checkpointLocation", self.ctx.root.path(*self.checkpoint))
                .option("mergeSchema", "true")
                .trigger(availableNow=True)
                .start(self.path)
            )
            query.awaitTermination()

    def rows(self) -> DataFrame | None:
        """The landed rows; None where there are none."""
        if not has_commits(self.ctx.root, *self.place):
            return None
        landed = self._read()
        return None if landed.isEmpty() else landed

    def fingerprint(self) -> str:
        """What the landed rows are known by: the table, which is another one when it starts over, and its version."""
        if not has_commits(self.ctx.root, *self.place):
            return ""
        table, spark = f"delta.`{self.path}`", self.ctx.spark
        version = spark.sql(f"DESCRIBE HISTORY {table} LIMIT 1").select("version").first()
        made = spark.sql(f"DESCRIBE DETAIL {table}").select("id").first()
        return digest([self.mapping, "landing", *(str(row[0]) for row in (made, version) if row is not None)])

    def is_stale(self, canonical: Canonical) -> bool:
        """Whether rows have landed that must be read again: their columns have other types now, which Delta would cast
        in silence, or a run was killed while it started over."""
        if not has_commits(self.ctx.root, *self.place):
            return False
        held, now = types_of(self._read()), types_of(canonical.frame)
        others = any(now.get(name, kind) != kind for name, kind in held.items())
        return others or not self.ctx.root.exists(*self.checkpoint)

    def empty(self) -> None:
        """Remove the landed rows, older versions of them too: they are in the tables."""
        self.ctx.spark.sql(f"DELETE FROM delta.`{self.path}`").collect()  # one row of counts
        vacuum_now(self.ctx.catalog, f"delta.`{self.path}`")

    def start_over(self) -> None:
        """Forget which files were read and what has landed, in this order: between the two no row is lost."""
        self.ctx.root.remove(*self.checkpoint)
        self.ctx.root.remove(*self.place)

    def _read(self) -> DataFrame:
        return self.ctx.spark.read.format("delta").load(self.path)
