"""Details as the stages leave them, for pages without a run."""

from __future__ import annotations

from typing import Any

import numpy as np


def details(change: float = -0.0008, half: float = 0.0012) -> dict[str, dict[str, Any]]:
    low, high = change - half, change + half
    word = "no worse" if low > -0.001 else ("worse" if high < -0.001 else "not shown")
    arms = {
        arm: {
            "auc": auc,
            "gauc": auc - 0.03,
            "gauc_groups": 812,
            "auc_error_bound": 0.0,
            "logloss": 0.151,
            "ne": 0.83,
            "calibration": cal,
            "ece": 0.002,
        }
        for arm, auc, cal in (
            ("full", 0.8762, 0.99),
            ("weighted", 0.8762 + change, 1.012),
            ("random", 0.8604, 1.2),
        )
    }
    p = np.geomspace(0.003, 0.3, 20)
    curves = {
        arm: [
            {
                "p": float(x),
                "rate": float(x * f),
                "low": float(x * f * 0.8),
                "high": float(x * f * 1.2),
                "rows": 2000.0,
            }
            for x in p
        ]
        for arm, f in (("full", 1.0), ("weighted", 0.97), ("random", 0.8))
    }
    verdict = {"word": word, "low": low, "high": high, "margin": 0.001, "alpha": 0.05}
    return {
        "ingest": {
            "rows": {"read": 211_328, "kept": 208_000, "quarantined": 1_228, "duplicate": 2_100},
            "reasons": {"price:range": 411, "unparsable": 300, "item_id:required": 517},
            "warnings": {"device:set": 3},
        },
        "impressions": {"impressions": 199_000, "by_date": [{"date": "2024-03-01"}, {"date": "2024-03-04"}]},
        "encode": {
            "labels": {
                part: {"zero": n, "one": n // 25} for part, n in (("train", 150_000), ("test", 38_000))
            }
        },
        "weigh": {
            "arms": {
                "weighted": {
                    "policy": "rare_event",
                    "biased": False,
                    "corrects_by": "offset",
                    "note": "",
                    "kept": 15_600,
                    "rows": 156_000,
                    "kept_fraction": 0.1,
                    "ess": 15_600.0,
                    "positive_share": 0.38,
                    "estimated_rows": 155_321.0,
                    "pi_quantiles": {"0": 0.003, "0.5": 0.1},
                }
            },
            "top": [
                {
                    "sample_id": str(i),
                    "event_date": "2024-03-02",
                    "label": float(i % 2),
                    "p": 0.03 * i,
                    "score": 9.0 - i,
                    "features": {
                        "item_id": f"i{i}",
                        "query_text": "red shoes sale",
                        "price": 31.5,
                        "hist_click": 0,
                    },
                }
                for i in range(1, 15)
            ],
        },
        "retrain": {
            "arms": {
                arm: {"rows": n, "steps": 80, "seconds": s}
                for arm, n, s in (("full", 156_000, 31.0), ("weighted", 15_600, 6.0), ("random", 15_611, 5.9))
            }
        },
        "evaluate": {
            "rows": 39_520,
            "positives": 1_520,
            "margin": 0.001,
            "confidence": 0.95,
            "bootstrap": 200,
            "titles": [["full", "all rows"], ["weighted", "weighted subset"], ["random", "random rows"]],
            "arms": arms,
            "clusters": {"group": "user", "groups": 4_000, "by_row": False, "effective": 2_900.0},
            "intervals": {f"auc_{arm}": [v["auc"] - 0.004, v["auc"] + 0.004] for arm, v in arms.items()}
            | {
                f"calibration_{arm}": [v["calibration"] - 0.04, v["calibration"] + 0.04]
                for arm, v in arms.items()
            },
            "differences": [
                {"name": "weighted - full", "value": change, "low": low, "high": high, "verdict": verdict},
                {
                    "name": "weighted - random",
                    "value": 0.015,
                    "low": 0.012,
                    "high": 0.018,
                    "verdict": verdict,
                },
                {
                    "name": "random - full",
                    "value": -0.0158,
                    "low": -0.019,
                    "high": -0.013,
                    "verdict": verdict,
                },
            ],
            "curves": curves,
            "slices": [
                {
                    "arm": arm,
                    "kind": kind,
                    "slice": value,
                    "auc": 0.86,
                    "calibration": 1.0,
                    "rows": 4000.0,
                    "clicks": 170.0,
                }
                for kind, value in (
                    ("day", "2024-03-04"),
                    ("item_id", "1 top 1 %"),
                    ("position", "01"),
                    ("position", "21"),
                )
                for arm in arms
            ],
        },
        "seconds": {"ingest": 21.2, "impressions": 14.0, "retrain": 61.3},
    }


def importance() -> dict[str, Any]:
    histogram = [
        {
            "low": 10 ** (k / 8),
            "high": 10 ** ((k + 1) / 8),
            "label": label,
            "rows": int(9000 * np.exp(-((k - at) ** 2) / 30)) + 1,
        }
        for label, at in ((0, -12), (1, -2))
        for k in range(-30, 8)
    ]
    return {
        "score": "grad_norm",
        "histogram": histogram,
        "pi": [row for row in histogram if row["high"] <= 1.0001],
        "positions": [
            {"position": k, "rows": 15_000, "clicks": 900 / k, "share": 0.3 / k, "kept": int(5000 / k)}
            for k in range(1, 11)
        ],
    }
