"""Options: `config/crm.yml` lists every option of every CRM with its default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from crm_sync.destinations.factory import ADAPTERS, load_options

SHIPPED = Path(__file__).parents[3] / "config" / "crm.yml"
WRITTEN: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())


def test_it_has_a_section_for_every_crm() -> None:
    assert list(WRITTEN) == list(ADAPTERS)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_section_names_every_option(name: str) -> None:
    assert list(WRITTEN[name]) == list(ADAPTERS[name].options.model_fields)


@pytest.mark.parametrize("name", ADAPTERS)
def test_its_values_are_the_defaults(name: str) -> None:
    assert getattr(load_options(SHIPPED), name) == ADAPTERS[name].options.model_validate({})


def test_a_default_that_differed_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "crm.yml").write_text(SHIPPED.read_text().replace("requests: 190", "requests: 100"))
    assert load_options(tmp_path / "crm.yml") != load_options(SHIPPED)
