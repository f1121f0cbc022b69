"""Pods: Kubernetes accepts the specification, and the exit code decides how the task ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kubernetes_validate
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

Load = Callable[..., Any]


class Cluster:
    """The calls that the operator makes to a cluster once its pod has ended. Records the deleted pods."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

    def read_pod(self, pod: k8s.V1Pod) -> k8s.V1Pod:
        return pod

    def delete_pod(self, pod: k8s.V1Pod) -> None:
        self.deleted.append(pod.metadata.name)

    def read_pod_events(self, pod: k8s.V1Pod) -> k8s.CoreV1EventList:
        return k8s.CoreV1EventList(items=[])


def ended(code: int | None) -> k8s.V1Pod:
    """A pod whose container ended with this code; None for a pod that was evicted before its end."""
    terminated = k8s.V1ContainerStateTerminated(exit_code=code) if code is not None else None
    status = k8s.V1ContainerStatus(
        name="base",
        image="",
        image_id="",
        ready=False,
        restart_count=0,
        state=k8s.V1ContainerState(terminated=terminated),
    )
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="winback-promote", namespace="winback", labels={"already_checked": "True"}),
        spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base")]),
        status=k8s.V1PodStatus(phase="Succeeded" if code == 0 else "Failed", container_statuses=[status]),
    )


@pytest.mark.parametrize(
    ("code", "task_id", "raised"),
    [
        (1, "train", AirflowException),
        (2, "train", AirflowFailException),
        (3, "check_data", AirflowFailException),
        (4, "promote", AirflowSkipException),
        (4, "train", AirflowException),
        (2, "promote", AirflowFailException),
        (137, "train", AirflowException),
        (None, "train", AirflowException),
    ],
)
def test_a_pods_exit_code_decides_whether_it_is_tried_again(
    code: int | None, task_id: str, raised: type, dag: Load, written: dict[str, Any]
) -> None:
    task = dag("winback_training", written).get_task(task_id)
    cluster = Cluster()
    task.__dict__["pod_manager"] = cluster
    task.__dict__["patch_already_checked"] = lambda *_, **__: None
    with pytest.raises(AirflowException) as error:
        task.cleanup(ended(code), ended(code), xcom_result=None, context=None)
    assert type(error.value) is raised
    assert cluster.deleted == ["winback-promote"]


def test_a_pod_that_did_its_work_ends_its_task(dag: Load, written: dict[str, Any]) -> None:
    task = dag("winback_training", written).get_task("promote")
    task.__dict__["pod_manager"] = Cluster()
    task.cleanup(ended(0), ended(0), xcom_result=None, context=None)


@pytest.mark.parametrize("claim", ["", "winback-data"])
def test_the_pod_is_one_that_kubernetes_takes_and_that_may_do_little(
    claim: str, dag: Load, written: dict[str, Any]
) -> None:
    written["pod"] |= {"data_claim": claim, "secrets": ["winback-registry"]}
    task = dag("winback_training", written).get_task("train")
    task.image = "registry.example/winback-training@sha256:0123"
    task.__dict__["_incluster_namespace"] = None
    task.__dict__["hook"] = type("Hook", (), {"is_in_cluster": False, "get_namespace": lambda self: "winback"})()
    pod = ApiClient().sanitize_for_serialization(task.build_pod_request_obj(None))
    kubernetes_validate.validate(pod, "1.32", strict=True)
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] == 14_400
    assert spec["terminationGracePeriodSeconds"] == 30
    assert (container["command"], container["args"][:2]) == (["winback"], ["train", "--until"])
    assert container["envFrom"] == [
        {"secretRef": {"name": "winback-registry"}},
        {"configMapRef": {"name": "winback"}},
    ]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["data"].get("persistentVolumeClaim", {}).get("claimName", "") == claim
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/tmp"}  # noqa: S108
