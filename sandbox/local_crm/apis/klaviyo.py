"""Klaviyo API of the local CRM.

It covers what winback uses, by revision 2026-07-15 of https://developers.klaviyo.com/en/reference: import jobs, profiles by
external id, deletions. Unlike at Klaviyo, a job advances with each poll and never by itself, so that tests control it. A deletion
takes effect at once.
"""

import json
import math
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Flask, Response, g, request

from sandbox.local_crm.apis.klaviyo_documents import MEDIA_TYPE, at, decoded, document, encoded, page, resource, says
from sandbox.local_crm.requests import Allowance, Desk

JOBS = "/api/profile-bulk-import-jobs"
MAX_PROFILES, MAX_BODY_BYTES, MAX_PROFILE_BYTES = 10_000, 5_000_000, 100_000
# Limits of each operation, per second and per minute, from the specification's x-klaviyo-ratelimit.
LIMITS = {
    "klaviyo.import": (10, 150),
    "klaviyo.jobs": (10, 150),
    "klaviyo.poll": (10, 150),
    "klaviyo.errors": (10, 150),
    "klaviyo.profiles": (75, 750),
    "klaviyo.deletion": (3, 60),
}
_STAGES = ("queued", "processing", "complete")  # each poll advances a job by one
# Klaviyo also accepts names and addresses. winback sends none, so the local CRM refuses them like unknown fields.
_FIELDS = {"external_id", "properties"}
_EQUALS = re.compile(r"""equals\(external_id,(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')\)""", re.DOTALL)
_REFUSED = "The profile is not accepted."


@dataclass
class _Job:
    """An import: the rows to write when it completes, and those that it refuses."""

    id: str
    created_at: datetime
    run_id: str | None
    total: int
    rows: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    polls: int = 0

    @property
    def status(self) -> str:
        return _STAGES[min(self.polls, len(_STAGES) - 1)]


class KlaviyoWire:
    """Klaviyo endpoints of the local CRM."""

    paths = ("/api/",)  # below these paths, errors are JSON

    def add_to(self, app: Flask, desk: Desk) -> None:
        """Route the endpoints."""
        self.desk = desk
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._route(app.post, JOBS, "klaviyo.import", self.create)
        self._route(app.get, JOBS, "klaviyo.jobs", self.list_jobs)
        self._route(app.get, f"{JOBS}/<job_id>", "klaviyo.poll", self.poll)
        self._route(app.get, f"{JOBS}/<job_id>/import-errors", "klaviyo.errors", self.import_errors)
        self._route(app.get, "/api/profiles", "klaviyo.profiles", self.profiles)
        self._route(app.post, "/api/data-privacy-deletion-jobs", "klaviyo.deletion", self.delete)

    def _route(self, route: Callable[..., Any], path: str, endpoint: str, act: Callable[..., Response]) -> None:
        burst, steady = LIMITS[endpoint]
        per_minute = self.desk.allow(endpoint, steady, 60)
        per_second = self.desk.allow(f"{endpoint}.burst", burst, 1)

        def view(**parts: str) -> Response:
            return self.desk.serve(
                endpoint,
                [per_minute, per_second],
                lambda: self._refusal() or act(**parts),
                says=says,
                over=self._over,
                headers=lambda: self._headers(per_minute),
            )

        route(path, endpoint=endpoint)(view)

    def _refusal(self) -> Response | None:
        """Return the error of an invalid header, checked before the body is read, or None."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Klaviyo-API-Key" or not self.desk.is_key(key):
            return says(401, "Missing or invalid private key.")
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}(\.\w+)?", request.headers.get("revision", "")):
            return says(400, "The request has no valid API revision.", parameter="revision")
        if request.method == "POST" and request.mimetype != MEDIA_TYPE:
            return says(415, f"The content type is not {MEDIA_TYPE}.")
        return None

    def _over(self, spent: Allowance) -> Response:
        g.is_over = True
        response = says(429, "Request was throttled.")
        response.headers["Retry-After"] = str(max(1, math.ceil(spent.wait_seconds(self.desk.now()))))
        return response

    def _headers(self, per_minute: Allowance) -> dict[str, str]:
        """Headers of the minute's limit; a 429 has none.

        https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling
        """
        if g.get("is_over"):
            return {}
        now = self.desk.now()
        return {
            "RateLimit-Limit": str(per_minute.requests),
            "RateLimit-Remaining": str(per_minute.remaining(now)),
            "RateLimit-Reset": str(math.ceil((per_minute.resets_at(now) - now).total_seconds())),
        }

    def create(self) -> Response:
        """Handle POST /api/profile-bulk-import-jobs: begin a job, or refuse all profiles if one is malformed."""
        if len(request.get_data()) > MAX_BODY_BYTES:
            return says(413, "The payload is larger than 5MB.")
        try:
            data = self.desk.json_body().get("data")
        except ValueError:
            return says(400, "The payload is not a JSON object.")
        profiles = at(data, "attributes", "profiles", "data")
        if at(data, "type") != "profile-bulk-import-job" or not isinstance(profiles, list):
            return says(400, "The payload is not a profile-bulk-import-job.", pointer="/data")
        if not 1 <= len(profiles) <= MAX_PROFILES:
            return says(400, f"Between 1 and {MAX_PROFILES} profiles.", pointer="/data/attributes/profiles/data")
        for index, profile in enumerate(profiles):
            if wrong := _wrong_with(profile):
                return says(400, wrong[1], pointer=f"{_pointer(index)}/{wrong[0]}".rstrip("/"))
        return self._begin(profiles)

    def _begin(self, profiles: Sequence[dict[str, Any]]) -> Response:
        rows, errors = [], []
        for index, profile in enumerate(profiles):
            external_id = profile["attributes"]["external_id"]
            text = self.desk.row_error(external_id, _REFUSED)
            if text is None:
                rows.append(_row(profile))
            else:
                source, payload = {"pointer": _pointer(index)}, {"external_id": external_id}
                words = {"code": "invalid", "title": "Invalid input.", "detail": text}
                errors.append({**words, "source": source, "original_payload": payload})
        with self._lock:
            job_id = encoded(f"import:{len(self._jobs) + 1}")
            job = _Job(job_id, self.desk.now(), self.desk.run_id(), len(profiles), rows, errors)
            self._jobs[job_id] = job
        return document(202, _shown(job))

    def poll(self, job_id: str) -> Response:
        """Handle GET /api/profile-bulk-import-jobs/{job_id}, which advances the job by one stage."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                return says(404, "The job does not exist.")
            job.polls += 1
            if job.status == "complete":
                self.desk.write(job.rows, run_id=job.run_id)
                job.rows = []
        return document(200, _shown(job))

    def list_jobs(self) -> Response:
        """Handle GET /api/profile-bulk-import-jobs."""
        return page([_shown(job) for job in list(self._jobs.values())])

    def import_errors(self, job_id: str) -> Response:
        """Handle GET /api/profile-bulk-import-jobs/{id}/import-errors."""
        job = self._jobs.get(job_id)
        if job is None:
            return says(404, "The job does not exist.")
        errors = job.errors if job.status == "complete" else []
        return page(
            [
                resource("import-error", f"{job.id}-{number}", f"{JOBS}/{job.id}/import-errors", error)
                for number, error in enumerate(errors)
            ]
        )

    def profiles(self) -> Response:
        """Handle GET /api/profiles with a filter for one external id."""
        found = _EQUALS.fullmatch(request.args.get("filter", ""))
        if not found:
            return says(400, "Only equals(external_id,...) is supported here.", parameter="filter")
        external_id = re.sub(r"\\(.)", r"\1", found[1] if found[1] is not None else found[2], flags=re.DOTALL)
        properties = self.desk.store.profile(external_id)
        if properties is None:
            return page([])
        attributes: dict[str, object] = {"external_id": external_id, "properties": properties}
        wanted = request.args.get("fields[profile]", "external_id,properties").split(",")
        shown = {name: value for name, value in attributes.items() if name in wanted}
        # The id encodes the external id, so that the server has no ids to store.
        return page([resource("profile", encoded(external_id), f"/api/profiles/{encoded(external_id)}", shown)])

    def delete(self) -> Response:
        """Handle POST /api/data-privacy-deletion-jobs for a profile by its id."""
        try:
            data = self.desk.json_body().get("data")
        except ValueError:
            return says(400, "The payload is not a JSON object.")
        profile = at(data, "attributes", "profile", "data")
        if at(data, "type") != "data-privacy-deletion-job" or at(profile, "type") != "profile":
            return says(400, "The payload is not a data-privacy-deletion-job.", pointer="/data")
        profile_id, attributes = at(profile, "id"), at(profile, "attributes")
        if not isinstance(profile_id, str) or attributes != {}:
            return says(400, "Exactly one identifier is needed, here the id.", pointer="/data/attributes/profile/data")
        try:
            self.desk.delete([decoded(profile_id)])
        except ValueError:
            return says(400, "The profile does not exist.", pointer="/data/attributes/profile/data/id")
        return Response(status=202)


def _shown(job: _Job) -> dict[str, Any]:
    is_complete = job.status == "complete"
    attributes = {
        "status": job.status,
        "created_at": job.created_at.isoformat(),
        "total_count": job.total,
        "completed_count": job.total - len(job.errors) if is_complete else 0,
        "failed_count": len(job.errors) if is_complete else 0,
    }
    return resource("profile-bulk-import-job", job.id, f"{JOBS}/{job.id}", attributes)


def _wrong_with(profile: object) -> tuple[str, str] | None:
    """Return where in a profile an error is, and its message, or None."""
    attributes = at(profile, "attributes")
    if at(profile, "type") != "profile" or not isinstance(attributes, dict):
        return "", "The profile is malformed."
    external_id, size = attributes.get("external_id"), len(json.dumps(profile, ensure_ascii=False).encode())
    unknown = next(iter(sorted(attributes.keys() - _FIELDS)), None)
    checks = [
        (unknown is None, f"attributes/{unknown}", f"'{unknown}' is not a valid field for the resource 'profile'."),
        (isinstance(external_id, str) and external_id != "", "attributes/external_id", "An identifier is needed."),
        (isinstance(attributes.get("properties", {}), dict), "attributes/properties", "This is not an object."),
        (_unset(profile) is not None, "meta/patch_properties/unset", "Unset must be a string or an array of strings."),
        (size <= MAX_PROFILE_BYTES, "", "The profile is larger than 100KB."),
    ]
    return next(((where, text) for is_right, where, text in checks if not is_right), None)


def _row(profile: dict[str, Any]) -> dict[str, Any]:
    """A profile in the store's form: an import ignores null values, and removes the properties listed under unset."""
    attributes = profile["attributes"]
    values = {name: value for name, value in attributes.get("properties", {}).items() if value is not None}
    return {**values, **dict.fromkeys(_unset(profile) or []), "external_id": attributes["external_id"]}


def _unset(profile: object) -> list[str] | None:
    names = at(profile, "meta", "patch_properties", "unset")
    names = [] if names is None else [names] if isinstance(names, str) else names
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _pointer(index: int) -> str:
    return f"/data/attributes/profiles/data/{index}"
