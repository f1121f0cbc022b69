"""Installer of the lock files in this folder: it installs exactly their versions, even if newer releases exist.

    .venv/bin/python requirements/install.py --project laptop     # a lock file and the project, into this Python's environment
    python requirements/install.py --into /venv job               # a lock file into another environment, created if absent
    python requirements/install.py --into /venv --project         # only the project, editable

uv installs the lock files, not pip. Pip resolves a locked name with extras (`google-auth[requests]==2.62.2`) a second time, and
with hashes it then fails on the day of a newer release. uv uses only the lock file, and takes 5 s instead of pip's 70 s. Pip
installs only uv, pinned with its hash, into the environment of the Python that runs this file. This file uses only the standard
library. Pip's index and certificate settings also apply to uv, unless uv has its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

LOCKS = Path(__file__).resolve().parent
PROJECT = LOCKS.parent


def main() -> None:
    """Install and check. Exits with 1 if a step failed, and with 2 if the lock file does not exist."""
    parser = argparse.ArgumentParser(description="Install a lock file of requirements/, the project, or both.")
    parser.add_argument("lock", nargs="?", help="laptop, dev, job, ...: a file of requirements/, without .txt")
    parser.add_argument("--into", type=Path, default=Path(sys.prefix), help="a virtual environment; created if absent")
    parser.add_argument("--project", action="store_true", help="also install the project, editable")
    options = parser.parse_args()
    names = sorted({path.stem for path in LOCKS.glob("*.txt")} - {"uv"})
    if options.lock and options.lock not in names:
        parser.error(f"requirements/{options.lock}.txt does not exist; choose one of: {', '.join(names)}")
    try:
        install(options.lock, options.into, has_project=options.project)
    except subprocess.CalledProcessError as error:
        sys.exit(f"Installing into {options.into} failed (exit code {error.returncode}); the reason is above.")


def install(lock: str | None, into: Path, *, has_project: bool) -> None:
    """Make the environment equal to the lock file, and check that the lock file is complete.

    Raises: CalledProcessError.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--require-hashes", "--no-deps"]
    bootstrap = subprocess.run(
        [*pip, "--requirement", LOCKS / "uv.txt"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if bootstrap.returncode:  # show pip's output only if it failed
        sys.stderr.write(bootstrap.stdout)
        bootstrap.check_returncode()
    environment = uv_environment()

    def uv(*words: str | Path) -> None:
        subprocess.run([sys.executable, "-m", "uv", "--quiet", "--no-config", *words], check=True, env=environment)

    if not (into / "pyvenv.cfg").is_file():
        uv("venv", "--python", sys.executable, into)
    if lock:
        uv("pip", "sync", "--python", into, "--require-hashes", LOCKS / f"{lock}.txt")
    if has_project:
        # The build backend is in the lock file, so nothing is downloaded here.
        uv("pip", "install", "--python", into, "--no-deps", "--no-build-isolation", "--editable", PROJECT)
    uv("pip", "check", "--python", into)


def uv_environment() -> dict[str, str]:
    """Return the environment for uv, with pip's index and certificates in uv's variables. Variables that are set stay."""
    words = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    settings = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
    found = dict(os.environ)
    for ours, theirs in (("index-url", "UV_DEFAULT_INDEX"), ("cert", "SSL_CERT_FILE")):
        for section in (":env:", "install", "global"):
            if value := settings.get(f"{section}.{ours}"):
                found.setdefault(theirs, value.strip("'\""))
    return found


if __name__ == "__main__":
    main()
