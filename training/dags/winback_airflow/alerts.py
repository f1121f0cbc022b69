"""Alerts of a failed task and of a DAG that did not finish in time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any

from airflow.sdk import AsyncCallback, BaseNotifier, DeadlineAlert, DeadlineReference

from winback_airflow.config import Alerts


class LogLine(BaseNotifier):
    """Writes the alert to the log as an error, for alarms on logs and for laptops."""

    template_fields = ("text",)

    def __init__(self, text: str, **kwargs: Any) -> None:
        """Store the text, a template."""
        super().__init__(**kwargs)
        self.text = text

    def notify(self, context: Any) -> None:  # noqa: ARG002
        """Write the line."""
        self.log.error("%s", self.text)

    async def async_notify(self, context: Any) -> None:
        """Write the line, in the triggerer."""
        self.notify(context)


def on_failure(alerts: Alerts) -> BaseNotifier:
    """The callback of a task that failed for good. A try that will be repeated sends no alert.

    Raises: ImportError when the notifier does not exist.
    """
    return _class(alerts)(**alerts.arguments, **alerts.failed)


def deadline(alerts: Alerts, minutes: int) -> DeadlineAlert:
    """Alert when a run has not finished `minutes` after it was queued.

    The callback runs in the triggerer with `dag_run` and `deadline` as context: every executor has a triggerer, but only some run
    synchronous callbacks. The triggerer imports the notifier, so it must be installed there or on its PYTHONPATH.
    """
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(minutes=minutes),
        callback=AsyncCallback(_class(alerts), kwargs={**alerts.arguments, **alerts.late}),
    )


def _class(alerts: Alerts) -> Callable[..., BaseNotifier]:
    module, _, name = alerts.notifier.rpartition(".")
    found: Callable[..., BaseNotifier] = getattr(import_module(module), name)
    return found
