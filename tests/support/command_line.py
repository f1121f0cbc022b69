"""`winback` as a command line: in this process, which saves three seconds of imports, or in one of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from jobs.cli.main import main
from tests.support.data_tests import for_processes

ROOT = Path(__file__).parents[2]
Finished = subprocess.CompletedProcess[str]


def run_here(environment: Mapping[str, str], *arguments: str) -> Finished:
    """Run a command in this process with these environment variables and no others, and without a terminal."""
    out, err = io.StringIO(), io.StringIO()
    command = ["winback", *arguments]
    with (
        mock.patch.dict(os.environ, {**for_processes(), **environment}, clear=True),
        mock.patch.object(sys, "argv", command),
        mock.patch.object(sys, "stdin", io.StringIO()),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code: int | str | None = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
    return Finished(command, int(code or 0), out.getvalue(), err.getvalue())


def run_process(environment: Mapping[str, str], *arguments: str) -> Finished:
    """Run a command in a process of its own, with these environment variables and no others."""
    command = [sys.executable, "-m", "jobs", *arguments]
    variables = {"PATH": "", **for_processes(), **environment}
    return subprocess.run(command, check=False, cwd=ROOT, env=variables, capture_output=True, text=True)
