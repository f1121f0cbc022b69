"""Time of the scoring step for a million exits, compared with the bare prediction on the same matrix.

The step reads the mart, checks the contract, encodes, predicts, decides, explains and writes the decisions. Each figure comes
from a process of its own, so that peak memory excludes the bench; the ratio is of medians of the same run.

    python bench/scoring_step.py [--rows 1000000] [--repeat 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import xgboost as xgb

from scoring.batch import CHUNK_ROWS, MART, Run, score
from scoring.features_file import load_contract
from scoring.model import Model
from scoring.policy import load_policy
from scoring.registry import bundles
from warehouse.duckdb.warehouse import DuckDBWarehouse

ROOT = Path(__file__).parents[1]
NOW = datetime(2026, 6, 1, tzinfo=UTC)
BOUND_RATIO, BOUND_MEGABYTES = 3.0, 1_500


def _sql(rows: int, seed: int) -> str:
    """Return SQL of mart rows with realistic distributions; the label of training rows depends on a few of them."""
    contract = load_contract(ROOT / "config" / "features.yml")
    columns = []
    for feature in contract.features:
        if feature.type == "category":
            columns.append(f"['alpha', 'beta', 'gamma', 'delta', null][1 + (random() * 5)::int % 5] as {feature.name}")
        else:
            low, high = feature.range or (0, 1)
            top = min(high, low + 5_000)
            missing = "case when random() < 0.1 then null else " if feature.missing == "allowed" else "("
            close = " end" if feature.missing == "allowed" else ")"
            columns.append(f"{missing}{low} + pow(random(), 3) * {top - low}{close} as {feature.name}")
    return f"""
        select
            md5(i::varchar) as exit_id, 'u-' || i as user_id, timestamp '2026-05-31 10:00:00' as exited_at,
            null::varchar as skip_reason, (random() * 1e18)::bigint as user_number, true as has_profile,
            random() < 0.8 as has_marketing_consent,
            null::timestamp as last_granted_at, null::timestamp as last_redeemed_at, {", ".join(columns)}
        from range({seed * rows}, {(seed + 1) * rows}) as r(i)
    """


def prepare(folder: Path, rows: int) -> None:
    """Create the mart and a model of production size: 300 trees of depth 6."""
    warehouse = DuckDBWarehouse(folder / "bench.duckdb")
    warehouse.prepare()
    warehouse.connection.execute("create schema marts")
    warehouse.connection.execute(f"create table marts.{MART} as {_sql(rows, 0)}")
    sample = warehouse.query(_sql(50_000, 1))
    contract = load_contract(ROOT / "config" / "features.yml").learn(sample)
    matrix = contract.encode(sample, "sample")
    rng = np.random.default_rng(1)
    ranks = np.nan_to_num(matrix[:, :6]).argsort(axis=0).argsort(axis=0) / len(matrix) - 0.5
    label = rng.random(len(matrix)) < 1 / (1 + np.exp(-(2 * ranks[:, 0] - 3 * ranks[:, 1] + 2 * ranks[:, 5] - 0.8)))
    data = xgb.DMatrix(
        matrix, label, feature_names=contract.names, feature_types=contract.feature_types, enable_categorical=True
    )
    booster = xgb.train({"objective": "binary:logistic", "max_depth": 6, "eta": 0.03}, data, num_boost_round=300)
    bundle = folder / "models" / "bench"
    bundle.mkdir(parents=True)
    booster.save_model(bundle / "model.json")
    (bundle / "contract.json").write_text(contract.model_dump_json())
    (bundle / "calibration.json").write_text("{}")
    (bundle / "metrics.json").write_text("{}")
    bundles.write_manifest(bundle, version="bench", trained_at=NOW, learned_until=NOW)
    warehouse.close()


def child(folder: Path, what: str) -> None:
    """Measure one thing and print the result."""
    warehouse = DuckDBWarehouse(folder / "bench.duckdb", memory_limit="400MB")
    model = Model(bundles.load_bundle(folder / "models", "bench"))
    if what == "step":
        warehouse.connection.execute("delete from ops.decisions")
        started = time.perf_counter()
        counts = score(warehouse, model, load_policy(ROOT / "config" / "vouchers.yml"), Run("bench", 1, NOW))
        seconds = time.perf_counter() - started
        facts = {"scored": counts.scored, "bands": counts.bands, "eligible": counts.eligible}
    else:
        names = ", ".join(model.contract.names)
        relation = warehouse.relation("marts", MART)
        batches = warehouse.stream(f"select {names} from {relation}", CHUNK_ROWS)
        matrix = np.concatenate([model.contract.encode(pa.Table.from_batches([b]), "mart") for b in batches])
        started = time.perf_counter()
        model.predict(matrix)
        seconds = time.perf_counter() - started
        facts = {"scored": len(matrix)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_megabytes": peak, **facts}))


def main() -> int:
    """Run the bench and print; exit 1 when a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(Path(arguments.child[0]), arguments.child[1])
        return 0
    results: dict[str, list[dict[str, float]]] = {"predict": [], "step": []}
    with tempfile.TemporaryDirectory() as name:
        print(f"Making {arguments.rows:,} exits and a model of 300 trees ...", file=sys.stderr)
        prepare(Path(name), arguments.rows)
        for _ in range(arguments.repeat):
            for what, found in results.items():
                command = [sys.executable, __file__, "--child", name, what]
                out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found.append(json.loads(out))
    predict = statistics.median(r["seconds"] for r in results["predict"])
    step = statistics.median(r["seconds"] for r in results["step"])
    peak = max(r["peak_megabytes"] for r in results["step"])
    last = results["step"][-1]
    rows = arguments.rows
    print(f"bare inplace_predict   {predict:6.2f} s   {rows / predict:12,.0f} rows/s")
    print(f"scoring step           {step:6.2f} s   {rows / step:12,.0f} rows/s   bands {last['bands']}")
    print(f"ratio {step / predict:.2f} (bound {BOUND_RATIO}), peak memory {peak:,.0f} MB (bound {BOUND_MEGABYTES:,})")
    return 0 if step / predict <= BOUND_RATIO and peak < BOUND_MEGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
