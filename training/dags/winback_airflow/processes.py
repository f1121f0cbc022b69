"""Tasks without a cluster: a process with the arguments and variables that its pod would get."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator

from winback_airflow.exits import leave

# The command sees only these variables of Airflow's environment. In a pod it would see none of them.
_INHERITED = ("PATH", "HOME", "TMPDIR", "LANG")


class WinbackProcessOperator(BaseOperator):
    """A winback command as a process. `image` is rendered but not used, so that an unset Variable is noticed."""

    template_fields: Sequence[str] = ("image", "cmds", "arguments", "env_vars")

    def __init__(
        self,
        *,
        image: str,
        cmds: list[str],
        arguments: list[str],
        env_vars: Mapping[str, str],
        skip_on_exit_code: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        """Accept the arguments of a pod operator."""
        super().__init__(**kwargs)
        self.image = image
        self.cmds = cmds
        self.arguments = arguments
        self.env_vars = env_vars
        self.skip_on_exit_code = skip_on_exit_code
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> None:  # noqa: ARG002
        """Run the command and log its output.

        Raises: as `leave` does, by the exit code.
        """
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        words = [*self.cmds, *self.arguments]
        self.log.info("Running %s", " ".join(words))
        # In a process group of its own, so that on_kill also reaches its children.
        with subprocess.Popen(
            words,
            env={**environment, **self.env_vars},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as self._process:
            for line in self._process.stdout or ():
                self.log.info("%s", line.rstrip("\n"))
        code = self._process.returncode
        leave(code if code >= 0 else None, tuple(self.skip_on_exit_code))

    def on_kill(self) -> None:
        """Stop it as Kubernetes would: with SIGTERM, after which winback ends within seconds."""
        if self._process and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
