"""What stands in for the outside world on a laptop: an app, a CRM, a demo."""

from __future__ import annotations

from pathlib import Path

# The demo's own files of configuration: what people write into config/ for their app does not fit the synthetic one.
DEMO_CONFIG = Path(__file__).parent / "demo_config"


def crm_file(warehouse: Path | None) -> Path:
    """Where the local CRM keeps its profiles unless told otherwise: beside the DuckDB file, or in var/."""
    return (warehouse.parent if warehouse else Path("var")) / "crm.sqlite"
