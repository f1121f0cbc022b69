"""Whether dbt runs its data tests, which are half of what an hour costs: only where they are what is tested."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAME, WITHOUT = "DBT_EXCLUDE_RESOURCE_TYPES", "test"  # dbt reads the variable


@contextmanager
def with_data_tests() -> Iterator[None]:
    """Run the data tests of every build within."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(NAME, raising=False)
        yield


def for_processes() -> dict[str, str]:
    """Return what a process that a test starts with an environment of its own needs, to do as the test does."""
    return {NAME: os.environ[NAME]} if NAME in os.environ else {}
