"""Control API of the local CRM at /_control/, without a key, for tests, benches and demos: faults and counters."""

from collections import Counter
from dataclasses import asdict

from flask import Flask, Response, jsonify, request

from sandbox.local_crm.faults import Fault, parse
from sandbox.local_crm.requests import Desk, reply

CONTROL = "/_control/"


def add_control(app: Flask, desk: Desk) -> None:
    """Add the endpoints."""

    @app.route("/_control/faults", methods=["GET", "POST", "DELETE"])
    def faults() -> Response:
        """List, set (see sandbox/local_crm/faults.py) or clear faults."""
        if request.method == "POST":
            try:
                fault = parse(desk.json_body())
            except ValueError as error:
                return reply(400, message=str(error))
            with desk.lock:
                desk.faults.waiting.append(fault)
        with desk.lock:
            if request.method == "DELETE":
                desk.faults.waiting.clear()
            return jsonify(faults=[_shown(fault) for fault in desk.faults.waiting])

    @app.get("/_control/requests")
    def requests() -> Response:
        """Return the counters since the start."""
        with desk.lock:
            by_endpoint = {name: dict(sorted(counts.items())) for name, counts in sorted(desk.by_endpoint.items())}
            counts = dict(desk.counts)
        by_status = Counter[str]()
        for statuses in by_endpoint.values():
            by_status.update(statuses)
        return jsonify(
            requests=by_status.total(),
            objects=counts.get("objects", 0),
            attributes_written=counts.get("attributes_written", 0),
            by_status=dict(sorted(by_status.items())),
            by_endpoint=by_endpoint,
            over_limit={name: each.refused for name, each in desk.allowances.items() if each.refused},
        )


def _shown(fault: Fault) -> dict[str, object]:
    own = {"kind", "times", "endpoint", "after"} | Fault.KINDS[fault.kind]
    return {name: value for name, value in asdict(fault).items() if name in own}
