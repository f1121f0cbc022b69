"""Pods whose exit code decides about a retry. Airflow's provider can skip on an exit code, but not fail for good on one."""

from __future__ import annotations

from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException, AirflowSkipException
from kubernetes.client import V1Pod

from winback_airflow.exits import leave


class GivesUp:
    """Mixin for a pod operator: exit codes 2 and 3 of the container fail the task for good."""

    def cleanup(self, pod: V1Pod, remote_pod: V1Pod, *args: Any, **kwargs: Any) -> None:
        """Clean up as the operator does, but fail for good if a retry would end the same way."""
        try:
            super().cleanup(pod, remote_pod, *args, **kwargs)  # type: ignore[misc]
        except AirflowSkipException:
            raise
        except AirflowException:
            code = exit_code(remote_pod, self.base_container_name)  # type: ignore[attr-defined]
            if code:
                leave(code)
            raise


class WinbackPodOperator(GivesUp, KubernetesPodOperator):
    """A command of winback in a pod."""


def exit_code(pod: V1Pod, container: str) -> int | None:
    """The container's exit code. None if it never ended, or the pod is gone."""
    statuses = (pod.status and pod.status.container_statuses) or []
    states = [status.state for status in statuses if status.name == container]
    return states[0].terminated.exit_code if states and states[0] and states[0].terminated else None
