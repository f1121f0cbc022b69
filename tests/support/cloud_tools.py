"""Fake cloud tools, which tests put first on the PATH. Each checks a command's arguments and does nothing.

The tables come from the tools' own reference pages: sub-commands, the number of arguments, and their options.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """Usage of a sub-command: minimum and maximum number of arguments, and its options; one with a value ends in `=`."""

    least: int = 0
    most: int = 0
    options: tuple[str, ...] = ()


_ANY = 99
_GCLOUD = ("--project=", "--quiet", "--format=")
_BQ = ("--project_id=", "--location=", "--format=", "--quiet")
# https://cloud.google.com/sdk/gcloud/reference, https://cloud.google.com/bigquery/docs/reference/bq-cli-reference,
# https://docs.docker.com/reference/cli/docker, https://mlflow.org/docs/latest/cli.html, https://airflow.apache.org/docs
TOOLS: Mapping[str, Mapping[str, Usage]] = {
    "gcloud": {
        "auth application-default login": Usage(options=_GCLOUD),
        "services enable": Usage(1, _ANY, _GCLOUD),
        "projects add-iam-policy-binding": Usage(1, 1, (*_GCLOUD, "--member=", "--role=", "--condition=")),
        "iam service-accounts keys list": Usage(0, 0, (*_GCLOUD, "--iam-account=")),
        "iam service-accounts keys delete": Usage(1, 1, (*_GCLOUD, "--iam-account=")),
        "run jobs execute": Usage(1, 1, (*_GCLOUD, "--region=", "--wait", "--args=")),
    },
    "bq": {
        "mk": Usage(1, 1, (*_BQ, "--dataset", "--table", "--schema=", "--time_partitioning_field=")),
        "query": Usage(1, 1, (*_BQ, "--use_legacy_sql=", "--dry_run")),
        "load": Usage(2, 3, (*_BQ, "--source_format=", "--replace", "--autodetect")),
        "update": Usage(1, 1, (*_BQ, "--clustering_fields=", "--set_label=")),
        "show": Usage(1, 1, (*_BQ, "--schema")),
    },
    "docker": {
        "build": Usage(1, 1, ("-t=", "-f=", "--target=", "--build-arg=", "--platform=")),
        "run": Usage(1, _ANY, ("--rm", "--read-only", "--tmpfs=", "-v=", "-e=", "--name=", "--network=", "-it")),
        "push": Usage(1, 1),
    },
    "kubectl": {
        "apply": Usage(0, 0, ("-f=", "-n=")),
        "create job": Usage(1, 1, ("--from=", "-n=")),
        "logs": Usage(1, 1, ("-n=", "-f")),
    },
    "terraform": {
        "init": Usage(),
        "plan": Usage(0, 0, ("-var=", "-out=")),
        "apply": Usage(0, 1, ("-var=", "-auto-approve")),
    },
    "airflow": {
        "variables set": Usage(2, 2),
        "dags trigger": Usage(1, 1),
        "connections add": Usage(1, 1, ("--conn-uri=",)),
    },
    "mlflow": {
        "server": Usage(
            0,
            0,
            (
                *("--host=", "--port=", "--workers=", "--backend-store-uri=", "--artifacts-destination="),
                *("--serve-artifacts", "--allowed-hosts="),
            ),
        ),
    },
}


def mistake(tool: str, words: Sequence[str]) -> str | None:
    """Return what is wrong with a command of a cloud tool, or None."""
    usages = TOOLS[tool]
    every = {option for usage in usages.values() for option in usage.options}
    plain, given = _split(words, every)
    for name, usage in sorted(usages.items(), key=lambda pair: -len(pair[0])):
        parts = name.split()
        if plain[: len(parts)] != parts:
            continue
        unknown = [option for option in given if option not in usage.options]
        if unknown:
            return f"{tool} {name} has no option {unknown[0].rstrip('=')}"
        count = len(plain) - len(parts)
        if not usage.least <= count <= usage.most:
            return f"{tool} {name} takes {usage.least} to {usage.most} words, not {count}"
        return None
    return f"{tool} has no command {' '.join(plain[:3])}"


def _split(words: Sequence[str], known: set[str]) -> tuple[list[str], list[str]]:
    """Split into arguments and options, with `=` after options that had a value."""
    plain: list[str] = []
    given: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            plain.append(word)
            continue
        name, equals, _ = word.partition("=")
        takes_value = f"{name}=" in known
        given.append(f"{name}=" if equals or takes_value else name)
        if takes_value and not equals and next(rest, None) is None:
            given.append(f"{name} without a value")
    return plain, given


def install(folder: Path) -> Path:
    """Write an executable for each tool; returns the folder to put first on the PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for tool in TOOLS:
        file = folder / tool
        file.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{Path(__file__).resolve()}' {tool} \"$@\"\n")
        file.chmod(0o755)
    return folder


if __name__ == "__main__":
    problem = mistake(sys.argv[1], sys.argv[2:])
    if problem:
        sys.stderr.write(problem + os.linesep)
        sys.exit(64)
