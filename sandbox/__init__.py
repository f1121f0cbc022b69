"""Replacements for external systems on a laptop: a synthetic app, a local CRM, and the demo."""

from __future__ import annotations

from pathlib import Path

# The demo's own configuration: files in config/ are written for the user's app and do not fit the synthetic one.
DEMO_CONFIG = Path(__file__).parent / "demo_config"


def crm_file(warehouse: Path | None) -> Path:
    """Return the default file of the local CRM's profiles: beside the DuckDB file, or in var/."""
    return (warehouse.parent if warehouse else Path("var")) / "crm.sqlite"
