"""Nightly: build the data of the last days again. Weekly: compare the tables with the raw events.

The nightly task takes the lease, as an hourly run does. If an hourly run holds it, the task exits with 1 and Airflow retries it
later. An hourly run that finds the lease taken leaves its hour to the next run.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, task
from winback_airflow.alerts import deadline
from winback_airflow.config import read_config
from winback_airflow.tasks import command

config = read_config()
times = config.dags.winback_dbt

with DAG(
    dag_id="winback_dbt",
    description="Nightly rebuild and weekly audit",
    schedule=times.schedule,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(minutes=3 * times.deadline_minutes),
    deadline=deadline(config.alerts, times.deadline_minutes),
    doc_md=__doc__,
    tags=["winback"],
) as dag:

    @task.short_circuit
    def is_audit_day(weekday: int, dag_run=None) -> bool:  # type: ignore[no-untyped-def]
        """Whether the run was scheduled for that day of the week, UTC."""
        return dag_run.run_after.isoweekday() == weekday

    nightly = command(config, "nightly", ["rebuild"], image="scoring")
    audit = command(config, "audit", ["audit"], image="scoring")

    nightly >> is_audit_day(times.audit_weekday) >> audit
