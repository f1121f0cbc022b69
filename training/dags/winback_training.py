"""Every week: is the data right, does a new model beat the one in use, and if so, let the next hourly run use it.

Each task may run again: training again until the same day gives the same version, a verdict is written over the same one, and a
promotion that is done finds nothing to promote.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG
from winback_airflow.alerts import deadline
from winback_airflow.config import read_config
from winback_airflow.exits import NOTHING_TO_PROMOTE
from winback_airflow.tasks import command

# Midnight before the run: the watermark is past it, so that a later try sees the same examples. A run without a data interval
# (by hand, in Airflow 3) has the time at which it was to begin.
UNTIL = "{{ data_interval_end | default(dag_run.run_after, true) | ds }}"

config = read_config()
times = config.dags.winback_training

with DAG(
    dag_id="winback_training",
    description="Train a challenger and promote it if it is better",
    schedule=times.schedule,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(minutes=3 * times.deadline_minutes),
    deadline=deadline(config.alerts, times.deadline_minutes),
    doc_md=__doc__,
    tags=["winback"],
) as dag:
    check_data = command(config, "check_data", ["audit"], image="scoring")
    # Built and tested before a large pod is asked for; training then builds the same again.
    collect_examples = command(config, "collect_examples", ["examples", "--until", UNTIL], image="scoring")
    train = command(config, "train", ["train", "--until", UNTIL], image="training")
    evaluate = command(config, "evaluate", ["evaluate"], image="training")
    # Skipped, and the run a success, when the challenger is not better.
    promote = command(config, "promote", ["promote"], image="training", skip_on=[NOTHING_TO_PROMOTE])

    check_data >> collect_examples >> train >> evaluate >> promote
