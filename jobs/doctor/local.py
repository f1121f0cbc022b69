"""Findings about this machine: configuration files, the model, dbt. Nothing is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from core.errors import ContractError
from core.settings import Settings
from crm_sync.destinations.factory import load_options
from crm_sync.field_mapping import load_fields
from jobs.doctor.finding import Finding
from jobs.models.lifecycle import aliases
from jobs.transform.dbt import PROJECT
from jobs.transform.funnel import load_funnel
from scoring.features import FeatureContract
from scoring.features_file import load_contract
from scoring.policy import load_policy
from scoring.registry import bundles

_NO_MODEL = ("Train one, once there is history:", "winback train")


def files(folder: Path) -> list[Finding]:
    """Check every configuration file that people edit."""
    loaders: dict[str, Callable[[Path], object]] = {
        "funnel.yml": load_funnel,
        "features.yml": load_contract,
        "vouchers.yml": load_policy,
        "crm_fields.yml": load_fields,
        "crm.yml": load_options,
    }
    return [_file(name, loaders[name], folder / name) for name in loaders]


def _file(name: str, load: Callable[[Path], object], path: Path) -> Finding:
    try:
        load(path)
    except ContractError as error:
        return Finding(name, "failed", str(error), (f"Correct {name}, or set WINBACK_CONFIG to another folder.",))
    return Finding(name, "ok", "can be used" if path.exists() else "does not exist; the defaults are used")


def model(settings: Settings) -> tuple[bundles.Bundle | None, list[Finding]]:
    """Read the registry's aliases, verify the champion's bundle if it is on disk, and return it if it is complete."""
    told = aliases(settings)
    if told.problem:
        do = ("Check that the tracking server is up. Until it responds, runs use the last verified bundle on disk.",)
        found = [Finding("registry", "warning" if told.on_disk else "failed", told.problem, do)]
    else:
        others = (("challenger", told.challenger), ("previous champion", told.previous_champion))
        says = ", ".join(
            [f"{told.registry}: champion {told.champion or 'none'}", *(f"{n} {v}" for n, v in others if v)]
        )
        found = [Finding("registry", "ok", says)]
    if not told.problem and told.champion is None:
        return None, [*found, Finding("model", "failed", "no champion exists", _NO_MODEL)]
    if told.on_disk is None:
        if told.problem:
            return None, found
        return None, [
            *found,
            Finding("model", "ok", f"{told.champion} is not on this disk yet; the first run fetches it"),
        ]
    if not told.problem and told.on_disk != told.champion:
        says = f"on disk is {told.on_disk}, no longer the champion; the next run fetches {told.champion}"
        return None, [*found, Finding("model", "ok", says)]
    bundle, of_bundle = _bundle(settings, told.on_disk)
    return bundle, [*found, *of_bundle]


def _bundle(settings: Settings, name: str) -> tuple[bundles.Bundle | None, list[Finding]]:
    try:
        bundle = bundles.load_bundle(settings.models, name)
    except ContractError as error:
        return None, [Finding("model", "failed", str(error), ("Restore the folder, or: winback promote VERSION",))]
    except ValueError:
        says = f"the contract of {name} is not one that this version reads"
        return None, [Finding("model", "failed", says, ("Train again:", "winback train"))]
    found = [Finding("model", "ok", f"{name}, every file unchanged")]
    try:
        declared = load_contract(settings.config / "features.yml")
    except ContractError:
        return bundle, found  # reported among the files
    return bundle, [*found, features(bundle.contract, declared)]


def features(learned: FeatureContract, declared: FeatureContract) -> Finding:
    """Compare what the model was trained on with what features.yml declares now."""
    before, now = ({f.name: (f.type, f.range, f.missing) for f in c.features} for c in (learned, declared))
    changed = [name for name in now if before.get(name) != now[name]] + [name for name in before if name not in now]
    if changed:
        says = (
            f"the model was trained on another features.yml: {', '.join(changed)} changed. A run uses the model's own"
        )
        return Finding("features", "warning", says, ("To use the file as it is now:", "winback train"))
    return Finding("features", "ok", f"the model's {len(now)} are those of features.yml")


def dbt(settings: Settings) -> Finding:
    """Check that dbt is installed, finds its project, and can write its output."""
    adapter = "dbt-bigquery" if settings.bigquery else "dbt-duckdb"
    try:
        told = f"dbt-core {version('dbt-core')}, {adapter} {version(adapter)}"
    except PackageNotFoundError as error:
        return Finding("dbt", "failed", f"{error.name} is not installed", ("Install winback again.",))
    if not (PROJECT / "dbt_project.yml").is_file():
        says = "the dbt project is missing beside the program"
        return Finding(
            "dbt", "failed", says, ("Install from the repository or use the image: both hold the folder dbt/.",)
        )
    target = settings.dbt_target.absolute()
    place = next(folder for folder in (target, *target.parents) if folder.exists())
    if not os.access(place, os.W_OK):
        says = f"{place} cannot be written to"
        return Finding("dbt", "failed", says, ("Set WINBACK_DBT_TARGET to a folder that can.",))
    return Finding("dbt", "ok", told)
