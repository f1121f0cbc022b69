"""Reference page of the settings, from `core/settings.py`."""

from __future__ import annotations

from pydantic import SecretStr

from core.settings import Settings
from docgen.markdown import code, page, table

# Every setting has one place here; `settings_page` fails when one is missing.
GROUPS: dict[str, tuple[str, ...]] = {
    "Data": (
        "warehouse",
        "memory_limit",
        "bigquery_location",
        "bigquery_max_bytes",
        "bigquery_endpoint",
        "bigquery_storage_endpoint",
        "earliest_at",
    ),
    "Model": ("models", "registry", "shadow", "threads"),
    "CRM": (
        "crm",
        "crm_url",
        "crm_api_key",
        "crm_client_id",
        "crm_client_secret",
        "crm_hosts",
        "crm_proxy",
        "crm_ca_file",
    ),
    "Run": (
        "safety_lag_seconds",
        "run_deadline_seconds",
        "retry_budget_seconds",
        "max_rejected_ratio",
        "min_audience_ratio",
        "lease_seconds",
        "max_watermark_age_seconds",
        "catch_up_days",
    ),
    "Files and errors": ("config", "dbt_target", "debug"),
}


def written(default: object) -> str:
    """Return a default as a person would write it."""
    return default.get_secret_value() if isinstance(default, SecretStr) else str(default)


def settings_page() -> str:
    """Return the page.

    Raises: ValueError if a setting is in no group, or in two.
    """
    placed = [name for names in GROUPS.values() for name in names]
    if sorted(placed) != sorted(Settings.model_fields):
        raise ValueError(f"settings without one place: {set(placed) ^ set(Settings.model_fields)}")
    parts = [
        "Settings are environment variables. winback reads them once, at the start, and checks all of them together.\n"
        "A wrong or misspelt variable stops the command with exit code 2, and the message lists every one.\n"
        "What people decide, such as who may get a voucher, is in the [configuration files](config/index.md)."
    ]
    for group, names in GROUPS.items():
        fields = [(name, Settings.model_fields[name]) for name in names]
        rows = [(code(f"WINBACK_{name.upper()}"), code(written(f.default)), f.description) for name, f in fields]
        parts += [f"## {group}", table(("variable", "default", "meaning"), rows)]
    return page("Settings", *parts)
