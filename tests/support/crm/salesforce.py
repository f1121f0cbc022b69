"""Helpers for tests of Salesforce: batches, and replies as its documentation shows them."""

from crm_sync.destination import Outcome
from crm_sync.destinations.http.transport import RetryBudget
from crm_sync.destinations.salesforce.client import Salesforce, SalesforceOptions
from crm_sync.diff import Change, Value
from sandbox.local_crm.apis.salesforce import SalesforceWire
from sandbox.local_crm.apis.salesforce_jobs import record_id
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_api import Canned

KEY = "00Dxx0000001gPL!kEy.7f3a9c51-canary"

UNPACED = SalesforceOptions(limits=())
ID_FIELD = "Winback_User_Id__c"
DELIVERED = Outcome("delivered", 200)
UNCONFIRMED = Outcome("deferred", code="unconfirmed")
JOB = "7505fEXAMPLE00012A"
JOB_PATH = f"/services/data/v62.0/jobs/ingest/{JOB}"


def salesforce(
    url: str, options: SalesforceOptions = UNPACED, budget_seconds: float = 120.0, key: str = KEY
) -> Salesforce:
    return Salesforce(url, key, options, RetryBudget(budget_seconds))


def wire(crm: LocalCrm) -> SalesforceWire:
    found: SalesforceWire = crm.app.extensions["salesforce"]
    return found


def changes(*external_ids: str, **attributes: Value) -> list[Change]:
    return [Change(each, dict(attributes) or {"Churn_Risk_Band__c": "high"}) for each in external_ids]


def result(*lines: str) -> Canned:
    return Canned(200, "".join(f"{line}\n" for line in lines).encode(), {"Content-Type": "text/csv"})


def successes(*external_ids: str) -> Canned:
    return result(
        f'"sf__Id","sf__Created",{ID_FIELD}', *(f'"{record_id(each)}","true",{each}' for each in external_ids)
    )


def failures(**errors: str) -> Canned:
    return result(f'"sf__Id","sf__Error",{ID_FIELD}', *(f'"","{error}",{each}' for each, error in errors.items()))


OPENED, UPLOADED = Canned(200, {"id": JOB, "state": "Open"}), Canned(201)
CLOSED, COMPLETE = Canned(200, {"id": JOB, "state": "UploadComplete"}), Canned(200, {"id": JOB, "state": "JobComplete"})
FILLED = (OPENED, UPLOADED, CLOSED)
NONE_FAILED = failures()


def refused(status: int, code: str, text: str = "no") -> Canned:
    return Canned(status, [{"errorCode": code, "message": text}])
