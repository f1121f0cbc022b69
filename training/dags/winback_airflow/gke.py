"""The same pods on a GKE cluster. A separate module, because the Google provider is 1.2 GB that other clusters do not need."""

from __future__ import annotations

from airflow.providers.google.cloud.operators.kubernetes_engine import GKEStartPodOperator

from winback_airflow.pods import GivesUp


class WinbackGkeOperator(GivesUp, GKEStartPodOperator):
    """A command of winback in a pod on GKE."""
