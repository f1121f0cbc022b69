"""Tasks that run a winback command: on Kubernetes, on GKE, or as a process."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

from airflow.sdk import BaseOperator
from kubernetes.client import models as k8s

from winback_airflow.alerts import on_failure
from winback_airflow.config import Config, Limits, Task
from winback_airflow.processes import WinbackProcessOperator

# Longer than the 8 seconds that a command needs from SIGTERM to its end.
_GRACE_SECONDS = 30
_MAX_RETRY_DELAY = timedelta(hours=1)
_USER = 10001  # the user of the images


def command(
    config: Config,
    task_id: Task,
    words: Sequence[str],
    image: Literal["training", "scoring"],
    skip_on: Sequence[int] = (),
) -> BaseOperator:
    """Return the task that runs `winback` with `words`, which may be templates, within the file's limits."""
    limits = config.tasks[task_id]
    common: dict[str, Any] = {
        "task_id": task_id,
        "image": getattr(config.images, image),
        "cmds": list(config.command),
        "arguments": list(words),
        "env_vars": dict(config.pod.env),
        "skip_on_exit_code": list(skip_on),
        "retries": limits.retries,
        "retry_delay": timedelta(minutes=limits.retry_delay_minutes),
        "retry_exponential_backoff": True,
        "max_retry_delay": _MAX_RETRY_DELAY,
        # Limits the whole try: the wait for a node comes on top of the work.
        "execution_timeout": timedelta(minutes=limits.timeout_minutes, seconds=config.pod.startup_timeout_seconds),
        "on_failure_callback": on_failure(config.alerts),
    }
    if config.runner == "process":
        return WinbackProcessOperator(**common)
    common |= _pod(config, limits, task_id)
    if config.runner == "gke":
        from winback_airflow.gke import WinbackGkeOperator  # noqa: PLC0415 - the provider is installed only where it is used

        return WinbackGkeOperator(**common, **config.gke.model_dump())
    from winback_airflow.pods import WinbackPodOperator  # noqa: PLC0415

    return WinbackPodOperator(**common)


def _pod(config: Config, limits: Limits, task_id: str) -> dict[str, Any]:
    """The other arguments of both pod operators."""
    pod = config.pod
    size = {"cpu": limits.cpu, "memory": limits.memory}
    return {
        "name": f"winback-{task_id.replace('_', '-')}",
        "namespace": pod.namespace,
        "service_account_name": pod.service_account_name,
        "automount_service_account_token": pod.automount_service_account_token,
        "node_selector": {**pod.node_selector, **limits.node_selector},
        # Memory limit equals the request, so that a node short of memory does not evict this pod first; CPU may burst.
        "container_resources": k8s.V1ResourceRequirements(requests=size, limits={"memory": limits.memory}),
        "configmaps": list(pod.config_maps),
        "env_from": [k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=name)) for name in pod.secrets],
        "security_context": k8s.V1PodSecurityContext(
            run_as_non_root=True,
            run_as_user=_USER,
            fs_group=_USER,
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        "container_security_context": k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
        "volumes": [_data(pod.data_claim), k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource())],
        "volume_mounts": [
            k8s.V1VolumeMount(name="data", mount_path="/data"),
            k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),  # noqa: S108
        ],
        # A worker that restarts finds the pod it started, instead of starting a second one.
        "durable": True,
        "on_finish_action": "delete_pod",
        "on_kill_action": "delete_pod",
        "active_deadline_seconds": limits.timeout_minutes * 60,
        "termination_grace_period": _GRACE_SECONDS,
        "startup_timeout_seconds": pod.startup_timeout_seconds,
        "get_logs": True,
        "log_events_on_failure": True,
        # Off, because it would write environment variables into the log.
        "log_pod_spec_on_failure": False,
        "do_xcom_push": False,
    }


def _data(claim: str) -> k8s.V1Volume:
    if claim:
        return k8s.V1Volume(
            name="data", persistent_volume_claim=k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim)
        )
    return k8s.V1Volume(name="data", empty_dir=k8s.V1EmptyDirVolumeSource())
