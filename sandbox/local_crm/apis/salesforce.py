"""Salesforce API of the local CRM.

It covers what winback uses: ingest of upserts in Bulk API 2.0, and in the REST API describe, query, deletion and creation of a
field. Unlike at Salesforce, polls advance a job, so that its duration is a number of polls. There is one object, Contact, with
the fields of examples/salesforce/crm_fields.yml. Tests that need others reach this object at `app.extensions["salesforce"]`.
"""

import re
import threading
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, jsonify, request

from sandbox.local_crm.apis.salesforce_jobs import Field, Job, JobFailedError, as_csv, read, record_id, work
from sandbox.local_crm.requests import Allowance, Desk, json_value, reply

OBJECT, ID_FIELD = "Contact", "Winback_User_Id__c"
CLIENT_ID = "local-client"
UPLOAD_BYTES = 100_000_000  # before Salesforce turns it into base64
FIELDS = {
    "Churn_Probability__c": "double",
    "Churn_Risk_Band__c": "string",
    "Churn_Reasons__c": "multipicklist",
    "Churn_Scored_At__c": "datetime",
    "Churn_Model_Version__c": "string",
    "Voucher_Eligible__c": "boolean",
    "Voucher_Reason__c": "string",
    "Voucher_Valid_Until__c": "datetime",
    "Experiment_Arm__c": "string",
}
_TYPES = {"Number": "double", "Text": "string", "Checkbox": "boolean", "DateTime": "datetime"}  # metadata -> describe
_CODES = {400: "BAD_REQUEST", 401: "INVALID_SESSION_ID", 403: "REQUEST_LIMIT_EXCEEDED", 404: "NOT_FOUND"}
_OWN_COLUMNS = {
    "successfulResults": ["sf__Id", "sf__Created"],
    "failedResults": ["sf__Id", "sf__Error"],
    "unprocessedrecords": [],
}
_SOQL = re.compile(r"SELECT Id, (\w+) FROM (\w+) WHERE (\w+) = '((?:[^'\\]|\\.)*)'", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r"}


def described(name: str, kind: str, **more: object) -> Field:
    """Return a field in the form that describe returns."""
    label = name.removesuffix("__c").replace("_", " ")
    facts = {"createable": True, "updateable": True, "nillable": True, "defaultedOnCreate": kind == "boolean"}
    scale = 4 if kind == "double" else 0
    ids = {"externalId": False, "unique": False, "caseSensitive": False, "restrictedPicklist": False}
    return {"name": name, "label": label, "type": kind, "scale": scale, **facts, **ids, **more}


class SalesforceWire:
    """Salesforce endpoints of the local CRM. A job ends with its `polls_until_done`th poll.

    An aborted job has processed its first `rows_until_aborted` rows. `tokens` are the access tokens that were issued for client
    credentials; removing one ends its session.
    """

    paths = ("/services/",)

    def add_to(self, app: Flask, desk: Desk) -> None:
        """Route the endpoints."""
        self.desk = desk
        self.fields: dict[str, Field] = {name.lower(): described(name, kind) for name, kind in FIELDS.items()}
        unique = {"externalId": True, "unique": True, "caseSensitive": True}
        self.fields[ID_FIELD.lower()] = described(ID_FIELD, "string", **unique)
        self.polls_until_done, self.rows_until_aborted = 2, 0
        self.tokens: set[str] = set()
        self.tokens_given = 0
        self.jobs: dict[str, Job] = {}
        self.external_ids: dict[str, str] = {}  # by record id, of the records that a query returned
        self.lock = threading.RLock()
        # Per org and 24 hours; the value is that of a small Enterprise Edition.
        self.day = desk.allow("salesforce.day", 100_000, 86_400)
        app.extensions["salesforce"] = self
        app.add_url_rule("/services/oauth2/token", "salesforce.token", self._token, methods=["POST"])
        jobs = "/jobs/ingest/<job_id>"
        self._route(app, "POST", "/jobs/ingest/", "salesforce.open", self.open)
        self._route(app, "PUT", f"{jobs}/batches/", "salesforce.upload", self.upload)
        self._route(app, "PATCH", f"{jobs}/", "salesforce.close", self.change_state)
        self._route(app, "GET", f"{jobs}/", "salesforce.job", self.job)
        self._route(app, "GET", f"{jobs}/<any({', '.join(_OWN_COLUMNS)}):kind>/", "salesforce.results", self.results)
        self._route(app, "GET", "/query/", "salesforce.query", self.query)
        self._route(app, "DELETE", "/composite/sobjects/", "salesforce.delete", self.delete)
        self._route(app, "GET", "/sobjects/<name>/describe/", "salesforce.describe", self.describe)
        self._route(app, "POST", "/tooling/sobjects/CustomField/", "salesforce.field", self.make_field)

    def _route(self, app: Flask, method: str, path: str, endpoint: str, act: Callable[..., Response]) -> None:
        def view(version: str, **parts: str) -> Response:
            return self.desk.serve(
                endpoint,
                [self.day],
                lambda: self._admitted(version, act, parts),
                says=error,
                over=self._over,
                headers=self._headers,
            )

        app.add_url_rule(f"/services/data/<version>{path}", endpoint, view, methods=[method], strict_slashes=False)

    def _admitted(self, version: str, act: Callable[..., Response], parts: dict[str, str]) -> Response:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not (self.desk.is_key(key) or key in self.tokens):
            return error(401, "Session expired or invalid")
        if not re.fullmatch(r"v\d{2,3}\.0", version):
            return error(404, "The requested resource does not exist")
        with self.lock:
            if "job_id" not in parts:
                return act(**parts)
            job = self.jobs.get(parts.pop("job_id"))
            return act(job, **parts) if job else error(404, "The requested resource does not exist")

    def _token(self) -> Response:
        """Handle POST /services/oauth2/token. The local CRM's key is also the client secret."""
        return self.desk.serve("salesforce.token", [], self.give_token, says=error)

    def give_token(self) -> Response:
        """Issue a token for client credentials."""
        if request.form.get("grant_type") != "client_credentials":
            return reply(400, error="unsupported_grant_type", error_description="grant type not supported")
        if request.form.get("client_id") != CLIENT_ID or not self.desk.is_key(request.form.get("client_secret")):
            return reply(400, error="invalid_client", error_description="invalid client credentials")
        with self.lock:
            self.tokens_given += 1
            token = f"00Dlocal!{self.tokens_given}"
            self.tokens.add(token)
        return reply(200, access_token=token, instance_url=request.host_url, scope="api")

    def _over(self, _: Allowance) -> Response:
        return error(403, "TotalRequests Limit exceeded.")

    def _headers(self) -> dict[str, str]:
        used = self.day.requests - self.day.remaining(self.desk.now())
        return {"Sforce-Limit-Info": f"api-usage={used}/{self.day.requests}"}

    def open(self) -> Response:
        """Handle POST jobs/ingest."""
        try:
            body = self.desk.json_body()
        except ValueError as wrong:
            return error(400, str(wrong), "JSON_PARSER_ERROR")
        if body.get("object") != OBJECT:
            text = f"InvalidEntity : Entity '{body.get('object')}' is not supported by the Bulk API."
            return error(400, text, "INVALIDENTITY")
        field = self.fields.get(str(body.get("externalIdFieldName")).lower())
        if not field or not field["externalId"]:
            named = body.get("externalIdFieldName")
            text = f"Field name provided, {named} does not match an External ID, Salesforce Id, or indexed field for {OBJECT}"
            return error(400, f"InvalidJob : {text}", "INVALIDJOB")
        wanted = {"operation": "upsert", "contentType": "CSV", "lineEnding": "CRLF", "columnDelimiter": "COMMA"}
        if any(body.get(name) != value for name, value in wanted.items()):
            return error(400, "InvalidJob : the local CRM takes upserts as CSV with CRLF and COMMA", "INVALIDJOB")
        job = Job(f"750{len(self.jobs):015d}", field["name"], self.desk.run_id(), self.desk.now())
        self.jobs[job.id] = job
        return self._info(job)

    def upload(self, job: Job) -> Response:
        """Handle PUT jobs/ingest/ID/batches: once per job, while it is open."""
        if job.state != "Open" or job.content is not None:
            return error(400, "InvalidJobState : data was uploaded to this job before", "INVALIDJOBSTATE")
        if request.mimetype != "text/csv":
            return error(400, "InvalidBatch : the content type must be text/csv", "INVALIDBATCH")
        job.content = request.get_data()
        if len(job.content) > UPLOAD_BYTES:
            return error(413, "The request is too large", "REQUEST_ENTITY_TOO_LARGE")
        job.refused = self._refused(job)
        return Response(status=201)

    def _refused(self, job: Job) -> dict[str, str]:
        """Return the rows that a fault refuses; the fault applies to the request that uploads them."""
        default = "FIELD_CUSTOM_VALIDATION_EXCEPTION:This contact may not be changed:--"
        try:
            ids = [row[job.external_id_field] for row in read(job.content or b"", job.external_id_field, self.fields)]
        except JobFailedError:
            return {}
        return {each: text for each in ids if (text := self.desk.row_error(each, default))}

    def change_state(self, job: Job) -> Response:
        """Handle PATCH jobs/ingest/ID: close or abort it."""
        try:
            state = self.desk.json_body().get("state")
        except ValueError as wrong:
            return error(400, str(wrong), "JSON_PARSER_ERROR")
        is_allowed = (state == "UploadComplete" and job.state == "Open" and job.content is not None) or (
            state == "Aborted" and job.state in {"Open", "UploadComplete", "InProgress"}
        )
        if not is_allowed:
            return error(400, f"InvalidJobState : a job in {job.state} does not become {state}", "INVALIDJOBSTATE")
        if state == "Aborted" and job.content is not None and self.rows_until_aborted:
            self._work(job, self.rows_until_aborted)
        job.state = str(state)
        return self._info(job)

    def job(self, job: Job) -> Response:
        """Handle GET jobs/ingest/ID, which advances the job."""
        if job.state in {"UploadComplete", "InProgress"}:
            job.polls += 1
            job.state = "InProgress"
            if job.polls >= self.polls_until_done:
                self._work(job)
        return self._info(job)

    def _work(self, job: Job, count_rows: int | None = None) -> None:
        def is_known(external_id: str) -> bool:
            return self.desk.store.profile(external_id) is not None

        try:
            work(job, self.fields, is_known, lambda rows: self.desk.write(rows, run_id=job.run_id), count_rows)
            job.state = "JobComplete"
        except JobFailedError as failed:
            job.state, job.error = "Failed", str(failed)

    def results(self, job: Job, kind: str) -> Response:
        """Handle GET jobs/ingest/ID/successfulResults and similar, in another order than the upload's."""
        try:
            uploaded = read(job.content or b"", job.external_id_field, self.fields)
        except JobFailedError:
            uploaded = []
        rows = job.results.get(kind, uploaded if kind == "unprocessedrecords" else [])
        header = [*_OWN_COLUMNS[kind], *(uploaded[0] if uploaded else [job.external_id_field])]
        return Response(as_csv(reversed(rows), header), mimetype="text/csv")

    def query(self) -> Response:
        """Handle GET query for one user's record."""
        found = _SOQL.fullmatch(request.args.get("q", ""))
        if not found:
            return error(400, "unexpected token", "MALFORMED_QUERY")
        if found[2] != OBJECT:
            return error(400, f"sObject type '{found[2]}' is not supported.", "INVALID_TYPE")
        if found[1] != found[3] or found[1].lower() not in self.fields:
            return error(400, f"No such column '{found[3]}' on entity '{OBJECT}'.", "INVALID_FIELD")
        external_id = re.sub(r"\\(.)", lambda pair: _ESCAPED.get(pair[1], pair[1]), found[4], flags=re.DOTALL)
        records = []
        if self.desk.store.profile(external_id) is not None:
            self.external_ids[record_id(external_id)] = external_id
            records = [{"attributes": {"type": OBJECT}, "Id": record_id(external_id), found[1]: external_id}]
        return reply(200, totalSize=len(records), done=True, records=records)

    def delete(self) -> Response:
        """Handle DELETE composite/sobjects."""
        results: list[dict[str, object]] = []
        for each in request.args.get("ids", "").split(","):
            external_id = self.external_ids.pop(each, None)
            if external_id is not None and self.desk.delete([external_id]):
                results.append({"id": each, "success": True, "errors": []})
            else:
                gone = {"statusCode": "ENTITY_IS_DELETED", "message": "entity is deleted", "fields": []}
                results.append({"success": False, "errors": [gone]})
        return jsonify(results)

    def describe(self, name: str) -> Response:
        """Handle GET sobjects/NAME/describe."""
        if name != OBJECT:
            return error(404, "The requested resource does not exist")
        return reply(200, name=OBJECT, createable=True, updateable=True, fields=list(self.fields.values()))

    def make_field(self) -> Response:
        """Handle POST tooling/sobjects/CustomField."""
        try:
            body = json_value(request.get_data())
            object_name, name = body["FullName"].split(".")
            metadata: dict[str, Any] = body["Metadata"]
            kind = _TYPES[metadata["type"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            return error(400, "Cannot deserialize the field", "JSON_PARSER_ERROR")
        if object_name != OBJECT or not name.endswith("__c") or name.lower() in self.fields:
            return error(
                400, "The field exists already, or its name is not a custom field's", "FIELD_INTEGRITY_EXCEPTION"
            )
        facts = {
            each: metadata[each] for each in ("externalId", "unique", "caseSensitive", "scale") if each in metadata
        }
        self.fields[name.lower()] = described(name, kind, **facts)
        return reply(201, id=f"00N{len(self.fields):015d}", success=True, errors=[])

    def _info(self, job: Job) -> Response:
        failed, succeeded = (len(job.results.get(kind, [])) for kind in ("failedResults", "successfulResults"))
        body = {
            "id": job.id,
            "operation": "upsert",
            "object": OBJECT,
            "createdDate": job.created_at.isoformat(timespec="milliseconds"),
            "state": job.state,
            "externalIdFieldName": job.external_id_field,
            "concurrencyMode": "Parallel",
            "contentType": "CSV",
            "lineEnding": "CRLF",
            "columnDelimiter": "COMMA",
            "jobType": "V2Ingest",
            "numberRecordsProcessed": succeeded + failed,
            "numberRecordsFailed": failed,
        }
        return reply(200, **body, **({"errorMessage": job.error} if job.error else {}))


def error(status: int, text: str, code: str | None = None) -> Response:
    """Return one error, in Salesforce's form."""
    response = jsonify([{"errorCode": code or _CODES.get(status, "UNKNOWN_EXCEPTION"), "message": text}])
    response.status_code = status
    return response
