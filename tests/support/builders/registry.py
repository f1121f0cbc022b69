"""Builders for tests of the registry: small bundles, and a real tracking server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

from scoring.calibration import Calibration
from scoring.features import Feature, FeatureContract
from scoring.registry.bundles import Bundle, load_bundle, write_manifest

FIRST, SECOND = "20260601T100000Z-00000001", "20260608T100000Z-00000002"
TRAINED_AT = datetime(2026, 6, 1, 10, tzinfo=UTC)
# All tests share two cores, and importing the server's libraries then takes most of a minute.
STARTS_WITHIN_SECONDS = 180.0


def make_bundle(models: Path, version: str, model: str = "{}") -> Bundle:
    """Seal a bundle that verifies but cannot score."""
    folder = models / version
    folder.mkdir(parents=True)
    contract = FeatureContract(features=(Feature(name="age", type="number", range=(0, 120)),))
    texts = {
        "model.json": model,
        "contract.json": contract.model_dump_json(),
        "calibration.json": Calibration(kind="none").model_dump_json(),
        "metrics.json": json.dumps({"auc": 0.8}),
        "card.md": f"# {version}\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    write_manifest(folder, version=version, trained_at=TRAINED_AT, learned_until=TRAINED_AT)
    return load_bundle(models, version)


def verdict(champion: str, challenger: str, *, is_better: object = True) -> str:
    """Return the part of `winback evaluate`'s verdict that promotion reads."""
    return json.dumps({"is_better": is_better, "champion": champion, "challenger": challenger, "gain": 0.01})


class TrackingServer:
    """`mlflow server` as the guide starts it: a process on a free loopback port, with database and artifacts in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.artifacts = folder, folder / "artifacts"
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self._port = one.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.command = [
            *(str(Path(sys.executable).with_name("mlflow")), "server"),
            *("--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(self.artifacts), "--serve-artifacts"),
            *("--allowed-hosts", f"127.0.0.1:{self._port}"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it unless it runs, and wait until it replies.

        Raises: RuntimeError when it ends, or does not reply in time.
        """
        if self._process:
            return
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            # A process group of its own, because the process that replies is a child.
            self._process = subprocess.Popen(
                self.command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        waited_until = time.monotonic() + STARTS_WITHIN_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > waited_until:
                self.kill()
                raise RuntimeError(f"mlflow server did not start: {(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill it and its child, like a machine failure."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=2).ok
        except requests.RequestException:
            return False
