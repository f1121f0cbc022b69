"""How would the job have done over a stretch of loaded history, run by run, against the local CRM?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from sklearn.metrics import roc_auc_score

from crm_sync.destinations.braze import Braze
from jobs.hourly import Result, hourly
from jobs.house import House, open_house
from jobs.narration import Narrator
from jobs.settings import Settings
from jobs.transform import SINCE_EVER, Window
from sandbox.crm_server import LocalCrm
from warehouse import ledger
from warehouse.errors import ContractError

API_KEY = "local-key"


@dataclass(frozen=True)
class Replayed:
    """The runs, and how well the scores they sent foretold what came after."""

    runs: list[Result]
    repeated: Result
    count_known: int
    auc: float | None
    churn_ratio: float | None


def replay(settings: Settings, until: datetime, every: timedelta, crm_database: Path, narrator: Narrator) -> Replayed:
    """Run windows of `every` from the watermark to `until` (UTC), each as its hour would have been run.

    Raises: ContractError where there is no history, or `until` lies before the watermark.
    """
    with (
        LocalCrm(crm_database, api_key=API_KEY) as crm,
        open_house(settings, narrator=narrator, destination=Braze(crm.url, API_KEY)) as house,
    ):
        first, last = ledger.history(house.warehouse, max(until, house.now()))
        if until <= last.window_until:
            raise ContractError("There is nothing to replay: choose a time after the watermark.")
        runs = []
        upto = last.window_until
        while upto < until:
            upto = min(upto + every, until)
            runs.append(hourly(at_the_time(house, upto), upto))
        repeated = hourly(at_the_time(house, until), until)
        return Replayed(runs, repeated, *_hindsight(house, first.window_until, until))


def at_the_time(house: House, moment: datetime) -> House:
    """The same house with its clock at that moment, UTC: a run then knows nothing of what is loaded later."""
    return replace(house, now=lambda: moment)


def _hindsight(house: House, history_until: datetime, until: datetime) -> tuple[int, float | None, float | None]:
    """AUC of the scores sent against the labels that had matured by the end."""
    house.transform(Window(from_at=SINCE_EVER, until_at=until, history_until=history_until)).build("examples")
    warehouse = house.warehouse
    known = warehouse.query(
        f"""
        select examples.label, decisions.churn_probability
        from {warehouse.relation("marts", "fct_training_examples")} as examples
        inner join {warehouse.relation("staging", "stg_ops__decisions")} as decisions
            on examples.exit_id = decisions.exit_id and decisions.disposition = 'scored'
        """
    )
    labels = known.column("label").to_numpy()
    if len(set(labels.tolist())) < 2:
        return len(labels), None, None
    auc = float(roc_auc_score(labels, known.column("churn_probability").to_numpy()))
    return len(labels), auc, float(labels.mean())
