"""How fast a million simulated impressions are written, and how hard their clicks are to foresee.

    python benchmarks/simulator.py [--impressions 1000000] [--cores 2]

One JSON line a measure: seconds of raw records and truth with a warm session, and the AUC of the true click
probability against the clicks (the ceiling of any model that does not know the draw).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time

from sie_spark.platform.config import Session, load_config
from sie_spark.platform.context import Context
from sie_spark.platform.progress import Progress
from sie_spark.platform.root import Root
from sie_spark.platform.session import local_session
from sie_spark.simulator import simulate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--impressions", type=int, default=1_000_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--memory", default="2g")
    options = parser.parse_args()
    spark = local_session(Session(cores=options.cores, memory=options.memory, shuffle_partitions=2))
    config = load_config("simulated", overrides=[f"simulator.impressions={options.impressions}"])
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context(config=config, root=Root(folder), progress=Progress(quiet=True), session=spark)
        spark.range(1000).selectExpr("sum(id)").collect()
        began = time.monotonic()
        result = simulate.run(ctx)
        seconds = time.monotonic() - began
        auc = spark.sql(
            f"""WITH scored AS (SELECT click_probability p, true_click y FROM {ctx.catalog.sql_name("truth")}
                                WHERE NOT is_bot),
                     ranked AS (SELECT y, avg(r) OVER (PARTITION BY p) r FROM
                                (SELECT p, y, row_number() OVER (ORDER BY p) r FROM scored))
                SELECT (sum(IF(y, r, 0)) - count_if(y) * (count_if(y) + 1) / 2)
                       / (count_if(y) * count_if(NOT y)) FROM ranked"""
        ).first()
    spark.stop()
    bar = 60.0 if options.impressions == 1_000_000 else None
    note = f"{result.metrics['records']:,.0f} records, {options.cores} cores, warm session"
    lines = [(f"seconds, {options.impressions} impressions", seconds, bar, note)]
    if auc is not None:
        lines.append(("AUC of the true probability", float(auc[0]), None, "what no model can pass"))
    for measure, value, limit, text in lines:
        holds = None if limit is None else value <= limit
        print(
            json.dumps(
                {
                    "measure": measure,
                    "value": round(value, 4),
                    "bar": limit,
                    "holds": holds,
                    "runs": 1,
                    "note": text,
                }
            )
        )


if __name__ == "__main__":
    main()
