"""Findings about BigQuery: login, endpoints, datasets, location and permissions, with the commands that fix them.

Pure functions of the facts that warehouse/bigquery/facts.py holds.
"""

from __future__ import annotations

import re

from jobs.doctor.bigquery_tables import findings_of_tables
from jobs.doctor.finding import Finding, State, size
from jobs.doctor.remediation import BigQueryCommands
from warehouse.bigquery.facts import LAYERS, Facts, Granted, Login, Refusal

_LOGINS = {
    "attached": "the service account attached to this machine",
    "federated": "workload identity federation",
    "impersonated": "a service account, by impersonation",
    "person": "a person's login (gcloud auth application-default login)",
    "none": "none, and none needed: WINBACK_BIGQUERY_ENDPOINT names an emulator on this machine",
    "other": "found",
}
_READERS = {"marts.fct_scoring_candidates": "score", "marts.crm_pending": "sync"}
_NOTHING = "not checked: BigQuery does not answer yet"
_REGIONAL = re.compile(r"bigquery(?:storage)?\.([a-z0-9-]+)\.rep\.googleapis\.com")


def findings(facts: Facts, wanted: BigQueryCommands) -> list[Finding]:
    """Return the findings for these facts."""
    known = wanted.location or facts.location
    found = [_login(facts.login), *_endpoints(wanted, known), _queries(facts, wanted)]
    if not facts.locations:
        return [*found, *(Finding(name, "skipped", _NOTHING) for name in ("datasets", "tables", "permissions"))]
    return [
        *found,
        *_datasets(facts, wanted, known),
        _location(facts, wanted),
        *findings_of_tables(facts, wanted, known),
        *(_granted(layer, one, wanted, known) for layer, one in facts.granted.items()),
        _session(facts, wanted),
        *(_read(name, one, wanted) for name, one in facts.reads.items()),
    ]


def _login(login: Login | Refusal) -> Finding:
    if isinstance(login, Refusal):
        do = (
            "On Google Cloud attach a service account to the job; elsewhere use workload identity federation. On a laptop:",
            "gcloud auth application-default login",
        )
        return Finding("credentials", "failed", login.says.split(". ")[0].rstrip("."), do)
    account = f": {login.account}" if login.account else ""
    if login.kind == "key":
        keyless = (
            "No key file is needed, and a leaked one gives anyone access to the data. On Google Cloud attach the service "
            "account to the job; elsewhere use workload identity federation. Then unset GOOGLE_APPLICATION_CREDENTIALS "
            "and delete the key:",
            f"gcloud iam service-accounts keys list --iam-account={login.account or 'SERVICE_ACCOUNT'}",
            f"gcloud iam service-accounts keys delete KEY_ID --iam-account={login.account or 'SERVICE_ACCOUNT'}",
        )
        return Finding("credentials", "warning", f"the key file of a service account{account}", keyless)
    return Finding("credentials", "ok", _LOGINS[login.kind] + account)


def _endpoints(wanted: BigQueryCommands, known: str) -> list[Finding]:
    """Check that both endpoints are set or neither, and that regional ones match the location of the datasets."""
    pair = {
        "WINBACK_BIGQUERY_ENDPOINT": wanted.endpoint,
        "WINBACK_BIGQUERY_STORAGE_ENDPOINT": wanted.storage_endpoint,
    }
    given = [name for name, address in pair.items() if address]
    if not given:
        return []
    if len(given) == 1:
        absent = next(name for name in pair if name not in given)
        says = f"{given[0]} is set and {absent} is not: part of the traffic uses Google's public endpoint"
        return [Finding("endpoints", "warning", says, (f"Set {absent} as well.",))]
    regions = {found[1] for address in pair.values() if (found := _REGIONAL.search(address))}
    if known and regions - {known.lower()}:
        says = f"the endpoint serves {', '.join(sorted(regions))}, and the datasets are in {known}"
        return [Finding("endpoints", "failed", says, (f"Set the endpoints of {known}, or unset them.",))]
    return [Finding("endpoints", "ok", f"not Google's public ones: both {' and '.join(given)} are set")]


def _queries(facts: Facts, wanted: BigQueryCommands) -> Finding:
    refusal, check = facts.queries, "queries"
    if not facts.locations and (refusal is None or refusal.kind == "login"):
        return Finding(check, "skipped", _NOTHING)
    if refusal is None:
        return Finding(check, "ok", f"the project {wanted.project} accepts them (tried by a dry run)")
    says, do = {
        "denied": (
            f"the project {wanted.project} denies them: bigquery.jobs.create is missing",
            ("Grant it:", wanted.grant("jobUser")),
        ),
        "missing": (
            f"the project {wanted.project} does not exist, or access to it is denied",
            ("Correct WINBACK_WAREHOUSE: bigquery://project/dataset_prefix",),
        ),
        "disabled": (
            f"BigQuery is not enabled in the project {wanted.project}",
            (
                "Enable it:",
                f"gcloud services enable bigquery.googleapis.com bigquerystorage.googleapis.com --project={wanted.project}",
            ),
        ),
        "unreachable": (
            refusal.says,
            ("Check that this machine may connect to bigquery.googleapis.com, or to WINBACK_BIGQUERY_ENDPOINT.",),
        ),
    }.get(refusal.kind, (refusal.says, ()))
    return Finding(check, "failed", says, do)


def _datasets(facts: Facts, wanted: BigQueryCommands, known: str) -> list[Finding]:
    found: list[Finding] = []
    refused = {layer: one for layer, one in facts.locations.items() if isinstance(one, Refusal)}
    for layer in [layer for layer, one in refused.items() if one.kind != "missing"]:
        name = wanted.dataset(layer)
        if refused[layer].kind == "denied":
            says = "access is denied, or it does not exist"
            do = ("Grant this, or create the dataset first if it does not exist:", wanted.grant_on(layer, known))
            found.append(Finding(f"dataset {name}", "failed", says, do))
        else:
            found.append(Finding(f"dataset {name}", "failed", refused[layer].says))
    missing = [layer for layer, one in refused.items() if one.kind == "missing"]
    if "raw" in missing:
        says = "does not exist. The app's ingestion writes it; winback reads it"
        do = (
            "Check the project and the prefix in WINBACK_WAREHOUSE. If no data exists yet, create the dataset "
            "in the location where it will be:",
            wanted.create("raw", known),
        )
        found.append(Finding(f"dataset {wanted.dataset('raw')}", "failed", says, do))
    own = [layer for layer in missing if layer != "raw"]
    if own:
        found.append(_to_create(own, facts.project, wanted, known))
    there = [wanted.dataset(layer) for layer in LAYERS if isinstance(facts.locations.get(layer), str)]
    if there:
        found.append(Finding("datasets", "ok", f"{', '.join(there)} {'are' if len(there) > 1 else 'is'} there"))
    return found


def _to_create(layers: list[str], project: frozenset[str] | Refusal, wanted: BigQueryCommands, known: str) -> Finding:
    names = ", ".join(wanted.dataset(layer) for layer in layers)
    if not isinstance(project, Refusal) and "bigquery.datasets.create" in project:
        return Finding("datasets to come", "ok", f"the first run creates {names}")
    is_known = not isinstance(project, Refusal)
    may = "the job may not create them" if is_known else "whether the job may create them cannot be checked here"
    do = (
        "Create them, and grant the job its role on them:",
        *(wanted.create(layer, known) for layer in layers),
        *(wanted.grant_on(layer, known) for layer in layers),
        "Or let the job create its own datasets, including those of an audit:",
        wanted.grant("user"),
    )
    state: State = "failed" if is_known else "warning"
    return Finding("datasets to come", state, f"they do not exist, and {may}: {names}", do)


def _location(facts: Facts, wanted: BigQueryCommands) -> Finding:
    places: dict[str, list[str]] = {}
    for layer, place in facts.locations.items():
        if isinstance(place, str):
            places.setdefault(place, []).append(wanted.dataset(layer))
    if not places:
        return Finding("location", "skipped", "no dataset exists yet")
    told = "; ".join(f"{place}: {', '.join(names)}" for place, names in places.items())
    if len(places) > 1:
        do = (
            "One query cannot read two locations. Create the other datasets again where the raw one is, and keep the raw one.",
        )
        return Finding("location", "failed", f"the datasets are in several locations ({told})", do)
    place = next(iter(places))
    if wanted.location and wanted.location.lower() != place.lower():
        says = f"WINBACK_BIGQUERY_LOCATION is {wanted.location}, and the datasets are in {place}"
        return Finding("location", "failed", says, (f"Unset it, or: export WINBACK_BIGQUERY_LOCATION={place}",))
    return Finding("location", "ok", f"all in {place}")


def _granted(layer: str, granted: Granted | Refusal, wanted: BigQueryCommands, known: str) -> Finding:
    check = f"permissions on {wanted.dataset(layer)}"
    if isinstance(granted, Granted):
        lacking = sorted(granted.wanted - granted.given)
        if not lacking:
            return Finding(check, "ok", "read" if layer == "raw" else "read and write")
        says = f"{', '.join(lacking)} {'are' if len(lacking) > 1 else 'is'} missing (checked on {granted.table})"
        return Finding(check, "failed", says, ("Grant it:", wanted.grant_on(layer, known)))
    if granted.kind == "unasked":
        return Finding(check, "skipped", "cannot be checked here")
    if granted.kind == "missing":
        do = ("If a run is denied access there, grant:", wanted.grant_on(layer, known))
        return Finding(check, "skipped", "cannot be checked before the dataset has a table", do)
    return Finding(check, "failed", granted.says, ("Grant:", wanted.grant_on(layer, known)))


def _session(facts: Facts, wanted: BigQueryCommands) -> Finding:
    check, session = "fast reading", facts.session
    if session is None:
        return Finding(check, "skipped", "no table exists yet to try the Storage Read API on")
    if session is True:
        return Finding(check, "ok", "the Storage Read API opened a read session")
    if isinstance(session, Refusal) and session.kind == "denied":
        grants = (
            "Grant it, and enable the API if it is disabled:",
            wanted.grant("readSessionUser"),
            f"gcloud services enable bigquerystorage.googleapis.com --project={wanted.project}",
        )
        return Finding(
            check, "failed", "the Storage Read API denies access: bigquery.readsessions.create is missing", grants
        )
    says = session.says if isinstance(session, Refusal) else ""
    do = (
        "Check that this machine may connect to bigquerystorage.googleapis.com, or to WINBACK_BIGQUERY_STORAGE_ENDPOINT.",
    )
    return Finding(check, "failed", f"the Storage Read API did not answer. {says}", do)


def _read(name: str, count: int | Refusal, wanted: BigQueryCommands) -> Finding:
    check = f"bytes to {_READERS[name]}"
    if isinstance(count, Refusal):
        if count.kind == "missing":
            return Finding(check, "skipped", f"{name} is not built yet")
        return Finding(check, "failed" if count.kind == "denied" else "warning", count.says)
    allowed = size(wanted.max_bytes_billed)
    says = f"a run reads {size(count)} of {name}, of the {allowed} that WINBACK_BIGQUERY_MAX_BYTES allows a query"
    if count > wanted.max_bytes_billed:
        do = (f"If this amount is right, raise the limit: export WINBACK_BIGQUERY_MAX_BYTES={_above(count)}",)
        return Finding(check, "failed", f"more than a query may read: {says}", do)
    return Finding(check, "ok", says)


def _above(count: int) -> int:
    """Return the next power of two: room to grow, and at most twice what is needed."""
    return 1 << count.bit_length()
