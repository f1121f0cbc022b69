"""Weekly: check the data, train a challenger, and promote it if it is better than the champion. The next hourly run uses it.

Each task can be repeated. Training until the same day gives the same version, a verdict replaces the same verdict, and a
finished promotion finds nothing to promote.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG
from winback_airflow.alerts import deadline
from winback_airflow.config import read_config
from winback_airflow.exits import NOTHING_TO_PROMOTE
from winback_airflow.tasks import command

# Midnight before the run. The watermark is past it, so a retry sees the same examples. A run without a data interval
# (started by hand, in Airflow 3) has its planned start.
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
    # Builds and tests the examples before a large pod is requested. Training builds the same again.
    collect_examples = command(config, "collect_examples", ["dataset", "--until", UNTIL], image="scoring")
    train = command(config, "train", ["train", "--until", UNTIL], image="training")
    evaluate = command(config, "evaluate", ["evaluate"], image="training")
    # When the challenger is not better, this task is skipped and the run succeeds.
    promote = command(config, "promote", ["promote"], image="training", skip_on=[NOTHING_TO_PROMOTE])

    check_data >> collect_examples >> train >> evaluate >> promote
