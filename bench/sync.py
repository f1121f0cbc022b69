"""Speed of the sync: at the CRM's documented limit, without a limit, and compared with another open-source reverse ETL.

The local CRM runs in a process of its own, enforces the documented limits in sliding windows by arrival time, and counts requests
over them. Figures are ratios within one run:

- the share of the allowed rate
- users per second, compared with drt-core's HubSpot destination (installed in its own environment under var/)
- memory above that of a sync of few users

    python bench/sync.py [--only limits,speed,memory] [--seconds 40]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crm_sync.deadline import Deadline
from crm_sync.delivery_log import DeliveryLog
from crm_sync.destination import Destination
from crm_sync.destinations.braze import Braze, BrazeOptions
from crm_sync.destinations.hubspot.client import HubSpot, HubSpotOptions
from crm_sync.field_mapping import load_fields
from crm_sync.suppression import Recheck
from crm_sync.sync import Plan, sync
from sandbox.local_crm.server import LocalCrm
from warehouse.duckdb.warehouse import DuckDBWarehouse

ROOT = Path(__file__).parents[1]
NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEY = "key-of-the-bench"
DRT = "drt-core==1.2.1"
BOUND_SHARE, BOUND_RATIO, BOUND_MEGABYTES = 0.95, 50.0, 400
MOST_USERS = 1_500_000
DRT_USERS = 300  # at 9 a second, 33 seconds
_STATE = {
    "churn_probability": "round(random(), 4)",
    "churn_risk_band": "['high', 'medium', 'low'][1 + i % 3]",
    "churn_reasons": "'stopped at the income step; long pauses; came back twice'",
    "churn_scored_at": "timestamp '2026-05-31 10:00:00'",
    "churn_model_version": "'20260520T160000Z-1a2b3c4d'",
    "is_voucher_eligible": "i % 3 = 0",
    "voucher_reason": "['granted', 'probability_above_range', 'holdout'][1 + i % 3]",
    "voucher_valid_until": "case when i % 3 = 0 then timestamp '2026-06-07 10:00:00' end",
    "experiment_arm": "case when i % 10 = 9 then 'holdout' else 'treatment' end",
}


def prepare(file: Path, users: int) -> None:
    """Make a warehouse whose audience is pending and unknown to the CRM."""
    warehouse = DuckDBWarehouse(file)
    warehouse.prepare()
    desired = ", ".join(f"{sql} as {name}" for name, sql in _STATE.items())
    held = ", ".join(f"cast(null as {_type(name)}) as acknowledged_{name}" for name in _STATE)
    warehouse.connection.execute(f"""
        create schema marts;
        create table marts.crm_pending as
            select 'user-' || lpad(i::varchar, 9, '0') as user_id, md5(i::varchar) as desired_hash,
                cast(null as varchar) as suppressed_because, false as is_withdrawal, false as is_in_doubt, {desired}, {held}
            from range({users}) as r(i);
        create view marts.crm_profiles as select * from marts.crm_pending;
    """)
    warehouse.close()


def _type(name: str) -> str:
    return {"churn_probability": "double", "is_voucher_eligible": "boolean"}.get(
        name, "timestamp" if name.endswith(("_at", "_until")) else "varchar"
    )


@dataclass(frozen=True)
class Pass:
    """Results of one sync in a process of its own. Processor seconds exclude the server."""

    delivered: int
    seconds: float
    cpu_seconds: float
    peak_megabytes: float


def sync_once(file: Path, destination: Destination) -> Pass:
    """Sync the pending users, as the job does, and measure only the sync."""
    warehouse = DuckDBWarehouse(file)
    run = Deadline("00000001-bench", 3_600)
    recheck = Recheck(warehouse, NOW, {"return_filed": "finished"}, lambda: NOW)
    plan = Plan("00000001-bench", 1, run, lambda: NOW, recheck, max_rejected_ratio=0.5)
    log = DeliveryLog(warehouse, plan.run_id, plan.epoch, lambda: NOW)
    mapping = load_fields(ROOT / "config" / "crm_fields.yml")
    began, cpu = time.perf_counter(), time.process_time()
    counts, stopped = sync(warehouse, destination, mapping, plan, log=log)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    if stopped:
        raise stopped
    warehouse.close()
    destination.close()
    return Pass(counts.delivered, seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


Allowed = tuple[int, float] | None  # requests in seconds; None: no limit


def connect(name: str, url: str, allowed: Allowed) -> Destination:
    """Connect, with one limit or with none."""
    limits = {"limits": [{"requests": allowed[0], "seconds": allowed[1]}] if allowed else []}
    if name == "hubspot":
        return HubSpot(url, KEY, HubSpotOptions.model_validate(limits))
    return Braze(url, KEY, BrazeOptions.model_validate(limits))


def serve(folder: Path, allowed: Allowed) -> None:
    """Serve the CRM until the parent closes our input. The first output line is the address, the last the counters."""
    with LocalCrm(folder / "crm.sqlite", api_key=KEY, is_sink=True) as crm:
        for allowance in crm.desk.allowances.values():
            allowance.is_on = allowed is not None
            allowance.requests, allowance.seconds = allowed or (1, 1.0)
        _take_single_contacts(crm)
        arrivals: list[float] = []
        crm.app.before_request(lambda: arrivals.append(time.monotonic()))
        print(crm.url, flush=True)
        sys.stdin.read()
        over = {name: allowance.refused for name, allowance in crm.desk.allowances.items()}
        print(json.dumps({"over": over, "arrivals": arrivals}), flush=True)


def _take_single_contacts(crm: LocalCrm) -> None:
    """Add the endpoint that drt-core uses and winback does not: one contact per request, by POST; each is new."""

    def create() -> tuple[dict[str, Any], int]:
        crm.desk.write([{"external_id": crm.desk.json_body()["properties"]["winback_user_id"]}])
        return {"id": "1", "properties": {}, "createdAt": NOW.isoformat(), "updatedAt": NOW.isoformat()}, 201

    crm.app.post("/crm/v3/objects/contacts")(create)


@dataclass(frozen=True)
class Served:
    """Requests over any limit, and the arrival time of each request, in seconds."""

    over: dict[str, int]
    arrivals: list[float]

    def share(self, requests: int, seconds: float) -> float:
        """Return the used share of the allowed rate, in whole windows from the first request on."""
        first, last = self.arrivals[0], self.arrivals[-1]
        windows = int((last - first) / seconds)
        return sum(at < first + windows * seconds for at in self.arrivals) / (windows * requests) if windows else 0.0


@contextmanager
def crm(folder: Path, allowed: Allowed) -> Iterator[tuple[str, list[Served]]]:
    """Run the CRM in another process; the list holds its counters after the block."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(folder), json.dumps(allowed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    served: list[Served] = []
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), served
    finally:
        last, _ = process.communicate()
        served.append(Served(**json.loads(last)))


def in_a_process(name: str, users: int, limit: Allowed = None) -> tuple[Pass, Served]:
    """Sync this many users in a process of its own, with a CRM of its own."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        # Prepared in another process too: a child's peak is never below the memory of its parent at its start.
        subprocess.run([sys.executable, __file__, "--prepare", str(folder / "bench.duckdb"), str(users)], check=True)
        with crm(folder, limit) as (url, served):
            command = [
                sys.executable,
                __file__,
                "--pass",
                name,
                url,
                str(folder / "bench.duckdb"),
                json.dumps(limit),
            ]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return Pass(**json.loads(answer.splitlines()[-1])), served[0]


# CRM, requests allowed, seconds, and a description of the limit.
LIMITS = (
    ("hubspot", 190, 10.0, "HubSpot's documented limit, batches of 100"),
    ("braze", 600, 3.0, "a plan's smaller limit, set in crm.yml, batches of 75"),
    ("braze", 3_000, 3.0, "Braze's documented limit, batches of 75"),
)
_BATCH = {"hubspot": 100, "braze": 75}


def limits(seconds: float) -> bool:
    """At a limit: the share of the allowed rate, and requests over it."""
    is_good = True
    for name, requests, window, what in LIMITS:
        users = int(requests * seconds / window * _BATCH[name])
        done, served = in_a_process(name, min(users, MOST_USERS), limit=(requests, window))
        share, over = served.share(requests, window), sum(served.over.values())
        verdict = "ok" if share >= BOUND_SHARE and not over else "MISSED"
        is_good = is_good and verdict == "ok"
        print(f"{what}: {requests / window:,.0f} requests/s allowed")
        print(
            f"    {done.delivered:,} users in {done.seconds:.1f} s: {share:.1%} of the rate (bound {BOUND_SHARE:.0%}), "
            f"{over} requests over the limit, {done.cpu_seconds / done.seconds:.0%} of a processor   {verdict}"
        )
    return is_good


DRT_PROGRAM = """
import sys, time, json
from drt.config.models import HubSpotDestinationConfig, SyncOptions
from drt.destinations import hubspot
url, users, is_free = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "free"
hubspot._HUBSPOT_API = url + "/crm/v3/objects"
if is_free:
    class Free:
        def acquire(self): pass
    hubspot.resolve_rate_limiter = lambda *a, **k: Free()
config = HubSpotDestinationConfig.model_validate({"type": "hubspot", "object_type": "contacts", "id_property": "winback_user_id",
    "auth": {"type": "bearer", "token_env": "HUBSPOT_TOKEN"}})
rows = [{"winback_user_id": f"user-{i:09d}", "churn_probability": "0.8312", "churn_risk_band": "high",
    "churn_reasons": "stopped at the income step;long pauses;came back twice", "churn_scored_at": "2026-05-31T10:00:00Z",
    "churn_model_version": "20260520T160000Z-1a2b3c4d", "voucher_eligible": "true", "voucher_reason": "granted",
    "voucher_valid_until": "2026-06-07T10:00:00Z", "experiment_arm": "treatment"} for i in range(users)]
began, cpu = time.perf_counter(), time.process_time()
result = hubspot.HubSpotDestination().load(rows, config, SyncOptions())
print(json.dumps({"delivered": result.success, "seconds": time.perf_counter() - began,
    "cpu_seconds": time.process_time() - cpu, "peak_megabytes": 0}))
"""


def drt_python() -> Path:
    """Return the Python of an environment with drt-core, created once."""
    folder = ROOT / "var" / "bench" / DRT
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", DRT], check=True)
    return python


def drt(users: int, *, is_free: bool) -> Pass:
    """Send the same properties of this many users with drt-core's HubSpot destination."""
    python = drt_python()
    with tempfile.TemporaryDirectory() as text, crm(Path(text), None) as (url, _):
        command = [str(python), "-c", DRT_PROGRAM, url, str(users), "free" if is_free else "as shipped"]
        answer = subprocess.run(command, check=True, capture_output=True, text=True, env={"HUBSPOT_TOKEN": KEY}).stdout
    return Pass(**json.loads(answer.splitlines()[-1]))


def speed(users: int) -> bool:
    """Without limits: users per second, processor time per thousand, and the same for drt-core."""
    found = {f"winback {name}": in_a_process(name, users)[0] for name in ("hubspot", "braze")}
    found["drt-core hubspot as shipped"] = drt(DRT_USERS, is_free=False)
    found["drt-core hubspot, its own limit lifted"] = drt(DRT_USERS * 10, is_free=True)
    for what, done in found.items():
        rate, cpu = done.delivered / done.seconds, 1_000 * done.cpu_seconds / done.delivered
        print(f"{what:40} {done.delivered:>9,} users, {rate:>9,.0f} users/s, {cpu:7.3f} s of processor per 1,000 users")
    ours = found["winback hubspot"]
    ratios = [
        ours.delivered / ours.seconds / (d.delivered / d.seconds) for what, d in found.items() if what.startswith("drt")
    ]
    verdict = "ok" if ratios[0] >= BOUND_RATIO else "MISSED"
    shipped, lifted = ratios
    print(
        f"winback is {shipped:,.0f} times as fast as drt-core as shipped (bound {BOUND_RATIO:.0f}), "
        f"{lifted:,.0f} times without its limit   {verdict}"
    )
    return verdict == "ok"


def memory(users: int) -> bool:
    """Peak memory of a sync of many users above that of a few."""
    few, _ = in_a_process("hubspot", 100)
    many, _ = in_a_process("hubspot", users)
    more = many.peak_megabytes - few.peak_megabytes
    verdict = "ok" if more < BOUND_MEGABYTES else "MISSED"
    print(
        f"{users:,} pending users: {many.peak_megabytes:,.0f} MB at the peak, {more:,.0f} MB above the "
        f"{few.peak_megabytes:,.0f} MB of 100 users (bound {BOUND_MEGABYTES})   {verdict}"
    )
    return verdict == "ok"


def _allowed(text: str) -> Allowed:
    limit = json.loads(text)
    return (int(limit[0]), float(limit[1])) if limit else None


def main() -> None:
    """Run the parts, print one line each, and exit with 1 when a bound was missed."""
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), _allowed(sys.argv[3]))
        return
    if sys.argv[1:2] == ["--prepare"]:
        prepare(Path(sys.argv[2]), int(sys.argv[3]))
        return
    if sys.argv[1:2] == ["--pass"]:
        _, _, name, url, file, limit = sys.argv
        print(json.dumps(asdict(sync_once(Path(file), connect(name, url, _allowed(limit))))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="limits,speed,memory")
    parser.add_argument("--seconds", type=float, default=40, help="seconds to send at the limit")
    parser.add_argument("--users", type=int, default=100_000)
    arguments = parser.parse_args()
    parts = {
        "limits": lambda: limits(arguments.seconds),
        "speed": lambda: speed(arguments.users),
        "memory": lambda: memory(arguments.users),
    }
    is_good = [parts[name]() for name in arguments.only.split(",")]  # all parts, also after a missed bound
    if not all(is_good):
        sys.exit(1)


if __name__ == "__main__":
    main()
