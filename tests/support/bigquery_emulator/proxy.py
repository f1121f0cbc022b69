"""Proxy of bqemulator's REST interface: corrects replies that differ from BigQuery's.

It replies to a repeated job id with 409, and gives jobs the id that an upload requested. It keeps the result of a read where the
Storage Read API finds it. Its changes to files and statements are in tests/support/bigquery_emulator/known_gaps.py. Tests also
use it to see statements and to inject faults. Faults match the text of a request: its SQL, or `load dataset.table as job_id`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pyarrow.parquet as pq

from tests.support.bigquery_emulator.http import Reply, error_reply, forward, json_reply
from tests.support.bigquery_emulator.known_gaps import (
    Upload,
    in_table_order,
    multipart_parts,
    refused_for_nulls,
    without_declared_columns,
)

Json = dict[str, Any]
Match = Callable[[str], bool] | str

READS = (
    "winback-read-"  # results of these jobs can be read through the Storage Read API, as all results can on BigQuery
)
ANONYMOUS = "_anonymous"


@dataclass(frozen=True)
class Asked:
    """A job or query that a client requested, in order of arrival; also a refused one."""

    text: str
    job_id: str | None
    labels: dict[str, str]
    is_dry_run: bool
    configuration: Json = field(default_factory=dict)  # of the query or load, as requested


@dataclass
class Fault:
    """A fault of the next `times` matching requests."""

    kind: str  # refuse | fail | before | after | lose
    match: Match
    times: int
    error: Json = field(default_factory=dict)
    action: Callable[[], object] = lambda: None

    def concerns(self, text: str) -> bool:
        """Whether the fault matches the request."""
        return self.match in text if isinstance(self.match, str) else self.match(text)


class Imitation:
    """BigQuery's REST interface: bqemulator's, with corrections."""

    def __init__(self, emulator_port: int, staging: Path) -> None:
        self.emulator_port = emulator_port
        self.staging = staging
        self.staging.mkdir(parents=True, exist_ok=True)
        self.url = ""
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self._changed = threading.Condition()
        self._in_flight: set[str] = set()
        self._failed: dict[str, Json] = {}
        self._rows_loaded: dict[str, int] = {}
        self._uploads: dict[str, Upload] = {}
        self._has_anonymous = False

    # Requests

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Reply | None:
        """Handle a request; returns None for a lost reply."""
        url = urlsplit(target)
        path = url.path.strip("/").split("/")
        if path[0] == "upload":
            return self._upload(path[4], parse_qs(url.query), headers, body)
        project, rest = (path[3], path[4:]) if path[2:3] == ["projects"] else ("", [])
        match method, rest:
            case "POST", ["jobs"]:
                return self._insert(project, json.loads(body), None)
            case "POST", ["queries"]:
                return self._query(target, headers, body)
            case "GET", ["jobs", job_id]:
                return self._job(target, job_id)
            case "GET", ["queries", job_id]:
                self._wait_for(job_id)
        return self._forward(method, target, headers, body)

    def _upload(self, project: str, query: dict[str, list[str]], headers: dict[str, str], body: bytes) -> Reply | None:
        if query["uploadType"] == ["multipart"]:
            job, file = multipart_parts(headers["content-type"], body)
            return self._insert(project, job, file)
        if "upload_id" not in query:
            upload_id = uuid4().hex
            self._uploads[upload_id] = Upload(json.loads(body))
            location = (
                f"{self.url}/upload/bigquery/v2/projects/{project}/jobs?uploadType=resumable&upload_id={upload_id}"
            )
            return Reply(200, b"", {"Location": location, "X-GUploader-UploadID": upload_id})
        upload = self._uploads[query["upload_id"][0]]
        if not upload.take(headers["content-range"], body):
            return Reply(308, b"", {"Range": f"bytes=0-{len(upload.file) - 1}"} if upload.file else {})
        return self._insert(project, upload.job, bytes(upload.file))

    def _query(self, target: str, headers: dict[str, str], body: bytes) -> Reply | None:
        request = json.loads(body)
        asked = Asked(request["query"], None, request.get("labels", {}), request.get("dryRun", False), request)
        return self._performed(asked, lambda: self._forward("POST", target, headers, body))

    def _insert(self, project: str, job: Json, file: bytes | None) -> Reply | None:
        asked = _asked_of(job)
        if asked.is_dry_run:
            job["jobReference"].pop("jobId", None)  # a dry run creates no job, so its id stays unused
            return self._performed(asked, lambda: self._post_job(project, job))
        job_id = asked.job_id or uuid4().hex
        job["jobReference"] = {"projectId": project, "location": "US"} | job.get("jobReference", {}) | {"jobId": job_id}
        if not self._claim(project, job_id):
            self.asked.append(asked)
            return error_reply(409, "duplicate", f"Already Exists: Job {project}:US.{job_id}")
        return self._performed(asked, lambda: self._run(project, job, file), release=job_id, job=job)

    def _job(self, target: str, job_id: str) -> Reply:
        self._wait_for(job_id)
        if job_id in self._failed:
            return json_reply(200, self._failed[job_id])
        return self._corrected(self._forward("GET", target, {}, b""), job_id)

    # Faults

    def _performed(
        self, asked: Asked, perform: Callable[[], Reply], release: str | None = None, job: Json | None = None
    ) -> Reply | None:
        """Forward a request, with the faults that match it."""
        self.asked.append(asked)
        try:
            for fault in self._take(asked.text, "before"):
                fault.action()
            for fault in self._take(asked.text, "refuse"):
                return error_reply(**fault.error)
            for fault in self._take(asked.text, "fail") if job else []:
                return self._fail(job or {}, fault.error)
            reply = perform()
        finally:
            self._release(release)
        for fault in self._take(asked.text, "after"):
            fault.action()
        return None if self._take(asked.text, "lose") else reply

    def _take(self, text: str, kind: str) -> list[Fault]:
        with self._changed:
            found = [f for f in self.faults if f.kind == kind and f.times > 0 and f.concerns(text)][
                : 1 if kind in {"refuse", "fail", "lose"} else None
            ]
            for fault in found:
                fault.times -= 1
            return found

    def _fail(self, job: Json, error: Json) -> Reply:
        """Create a job that has failed, so that its id is used up."""
        result = {"reason": error["reason"], "message": error["message"]}
        failed = job | {"kind": "bigquery#job", "status": {"state": "DONE", "errorResult": result, "errors": [result]}}
        self._failed[job["jobReference"]["jobId"]] = failed
        return json_reply(200, failed)

    # Job ids

    def _claim(self, project: str, job_id: str) -> bool:
        with self._changed:
            if job_id in self._in_flight or job_id in self._failed:
                return False
            self._in_flight.add(job_id)
        known = True
        try:
            known = self._forward("GET", f"/bigquery/v2/projects/{project}/jobs/{job_id}", {}, b"").status == 200
        finally:  # also when the emulator is down, so that no client waits for a missing job
            if known:
                self._release(job_id)
        return not known

    def _release(self, job_id: str | None) -> None:
        with self._changed:
            self._in_flight.discard(job_id or "")
            self._changed.notify_all()

    def _wait_for(self, job_id: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: job_id not in self._in_flight)

    # Jobs

    def _run(self, project: str, job: Json, file: bytes | None) -> Reply:
        job_id = job["jobReference"]["jobId"]
        load = job["configuration"].get("load")
        if load and file is not None:
            staged = self.staging / f"{uuid4().hex}.{load.get('sourceFormat', 'file').lower()}"
            staged.write_bytes(file)
            if load.get("sourceFormat") == "PARQUET":
                rows = pq.read_table(staged)
                fields = load.get("schema", {}).get("fields") or self._fields_of(load["destinationTable"])
                refused = refused_for_nulls(rows, fields, is_declared="schema" in load)
                if refused:
                    staged.unlink()
                    return self._fail(job, {"reason": "invalid", "message": refused})
                pq.write_table(in_table_order(rows, self._fields_of(load["destinationTable"])), staged)
                self._rows_loaded[job_id] = rows.num_rows
            load["sourceUris"] = [f"file://{staged}"]
        query = job["configuration"].get("query")
        if query:
            query["query"] = without_declared_columns(query["query"])
        reply = self._post_job(project, job)
        if load and file is not None:
            staged.unlink()
        if job_id.startswith(READS) and query and reply.is_success:
            self._keep_result(project, job)
        return self._corrected(reply, job_id)

    def _fields_of(self, table: Json) -> list[Json]:
        target = "/bigquery/v2/projects/{projectId}/datasets/{datasetId}/tables/{tableId}".format(**table)
        found = self._forward("GET", target, {}, b"")
        fields: list[Json] = found.content.get("schema", {}).get("fields", []) if found.is_success else []
        return fields

    def _keep_result(self, project: str, job: Json) -> None:
        if not self._has_anonymous:
            reference = {"datasetReference": {"projectId": project, "datasetId": ANONYMOUS}}
            self._post(f"/bigquery/v2/projects/{project}/datasets", reference)
            self._has_anonymous = True
        query = job["configuration"]["query"]
        table = _kept_in(project, job["jobReference"]["jobId"])
        name = f"`{project}`.`{ANONYMOUS}`.`{table['tableId']}`"
        statement = f"create or replace table {name} as\n{query['query'].strip().rstrip(';')}"
        self._post_job(project, {"configuration": {"query": query | {"query": statement}}, "jobReference": {}})

    def _corrected(self, reply: Reply, job_id: str) -> Reply:
        """Return a job's description as BigQuery would give it."""
        if reply.status != 200:
            return reply
        job = reply.content
        configuration = job.get("configuration", {})
        if job_id.startswith(READS) and "query" in configuration:
            configuration["query"]["destinationTable"] = _kept_in(job["jobReference"]["projectId"], job_id)
        if job_id in self._rows_loaded and reply.is_success:
            # bqemulator counts the rows of the table instead of the load.
            job["statistics"]["load"]["outputRows"] = str(self._rows_loaded[job_id])
        return json_reply(200, job)

    # The emulator

    def _post_job(self, project: str, job: Json) -> Reply:
        return self._post(f"/bigquery/v2/projects/{project}/jobs", job)

    def _post(self, target: str, content: Json) -> Reply:
        return self._forward("POST", target, {"content-type": "application/json"}, json.dumps(content).encode())

    def _forward(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Reply:
        return forward(self.emulator_port, method, target, headers, body)


def _asked_of(job: Json) -> Asked:
    configuration = job["configuration"]
    job_id = job.get("jobReference", {}).get("jobId")
    if "load" in configuration:
        table = configuration["load"]["destinationTable"]
        text = f"load {table['datasetId']}.{table['tableId']} as {job_id}"
    else:
        text = configuration.get("query", {}).get("query", json.dumps(configuration))
    detail = configuration.get("load") or configuration.get("query") or {}
    return Asked(text, job_id, configuration.get("labels", {}), configuration.get("dryRun", False), detail)


def _kept_in(project: str, job_id: str) -> Json:
    return {"projectId": project, "datasetId": ANONYMOUS, "tableId": "anon_" + job_id.replace("-", "_")}
