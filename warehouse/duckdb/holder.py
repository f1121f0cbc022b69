"""The process that holds a file: its program and its winback command, from the operating system.

Only names are kept from the command line, because arguments may contain a user's id.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Options of Python that take the next argument as their value.
_WITH_VALUE = {"-X", "-W", "--check-hash-based-pycs"}
# The command that runs an hour, and its name before.
HOURLY = ("run", "hourly")
_PATIENCE_SECONDS = 5


@dataclass(frozen=True)
class Holder:
    """The process that holds a file. `is_hourly`: an hourly run (not a dry run), which does the work of any other hourly run."""

    name: str
    is_hourly: bool = False


def describe(arguments: Sequence[str]) -> Holder:
    """Return the holder for a command line, whose first argument is the program."""
    if not arguments:
        return Holder("an unknown program")
    program, rest = Path(arguments[0]).name, list(arguments[1:])
    script, is_module = program, False
    if re.fullmatch(r"(python|pypy)[\d.]*(\.exe)?", program):
        script, is_module, rest = _script(rest)
        program = f"{program}{' -m' if is_module else ''} {Path(script).name}".strip()
    is_winback = script == "jobs" if is_module else Path(script).name == "winback"
    if not is_winback:
        return Holder(program)
    command = next((argument for argument in rest if not argument.startswith("-")), "")
    is_hourly = command in HOURLY and "--dry-run" not in rest
    dry = " --dry-run" if command in HOURLY and not is_hourly else ""
    return Holder(f"winback {command}{dry}" if re.fullmatch(r"[a-z-]+", command) else "winback", is_hourly)


def _script(arguments: list[str]) -> tuple[str, bool, list[str]]:
    """Return what Python runs, whether that is a module, and the arguments after it. Code on the command line has no name."""
    while arguments:
        argument, *arguments = arguments
        if argument == "-m" and arguments:
            return arguments[0], True, arguments[1:]
        if argument == "-c":
            break
        if argument in _WITH_VALUE:
            arguments = arguments[1:]
        elif not argument.startswith("-"):
            return argument, False, arguments
    return "", False, []


def holder(process: int) -> Holder | None:
    """Return the holder with this process id, from the operating system; None if unknown."""
    try:
        line = Path(f"/proc/{process}/cmdline").read_bytes()
        arguments = [part.decode(errors="replace") for part in line.split(b"\0") if part]
    except OSError:
        try:
            command = ["ps", "-o", "args=", "-p", str(process)]
            asked = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_PATIENCE_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return None
        arguments = asked.stdout.split()
    return describe(arguments) if arguments else None
