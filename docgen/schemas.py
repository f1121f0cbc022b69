"""JSON Schemas of the configuration files, for editors, from the models that read the files."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from crm_sync.destinations.factory import CrmFile
from crm_sync.field_mapping import FieldMapping
from docgen.comments import Place, comments_of
from jobs.transform.funnel import Funnel
from scoring.features import FeatureContract
from scoring.policy import Policy
from scoring.shared_values import MIN_USERS
from training.config import TrainingRules

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config"
Schema = dict[str, Any]
# What training adds to a feature; people do not write it into config/features.yml.
_LEARNED = ("categories", "rest", "median")


@dataclass(frozen=True)
class ConfigFile:
    """A configuration file: its name, what it decides, who edits it, and the model that reads it."""

    name: str
    decides: str
    readers: str
    model: Callable[[], type[BaseModel]]

    @property
    def path(self) -> Path:
        """The file as the project ships it."""
        return CONFIG / f"{self.name}.yml"

    @property
    def schema_path(self) -> Path:
        """Its JSON Schema."""
        return CONFIG / "schemas" / f"{self.name}.json"


def _airflow() -> type[BaseModel]:
    """Return the model of airflow.yml, which lies beside the DAGs and works without Airflow."""
    path = ROOT / "training" / "dags" / "winback_airflow" / "config.py"
    spec = importlib.util.spec_from_file_location("docgen_airflow_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks annotations up there
    spec.loader.exec_module(module)
    model: type[BaseModel] = module.Config
    return model


FILES = (
    ConfigFile("funnel", "Events that end a journey, sessions, steps", "analytics engineer", lambda: Funnel),
    ConfigFile("vouchers", "Who may get a voucher, budgets, holdout", "marketing", lambda: Policy),
    ConfigFile(
        "features", "The features of the model, and the words for them", "data scientist", lambda: FeatureContract
    ),
    ConfigFile("training", "How a model is trained and compared", "data scientist", lambda: TrainingRules),
    ConfigFile("crm_fields", "Which property of the CRM holds which field", "marketing", lambda: FieldMapping),
    ConfigFile("crm", "Batch sizes and rate limits of each CRM", "operator", lambda: CrmFile),
    ConfigFile("airflow", "Where and when the Airflow tasks run", "operator", _airflow),
)


def schema_of(file: ConfigFile) -> Schema:
    """Return the schema, with the file's comments as descriptions."""
    schema = file.model().model_json_schema()
    if file.name == "features":
        for key in _LEARNED:
            del schema["$defs"]["Feature"]["properties"][key]
    _describe(schema, comments_of(file.path))
    if file.name == "features":
        _describe_features(schema)
    if file.name == "crm":
        _describe_options(schema)
    _drop_titles(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"winback: {file.name}.yml",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def written(schema: Schema) -> str:
    """Return a schema as its file holds it."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def resolved(schema: Schema, part: Schema) -> Schema:
    """Return a part of a schema with its reference followed; keys beside the reference win."""
    if len(part.get("allOf", [])) == 1:
        part = {**part["allOf"][0], **part}
    if "$ref" in part:
        return {**schema["$defs"][part["$ref"].rsplit("/", 1)[1]], **part}
    return part


def _describe(schema: Schema, comments: dict[Place, str]) -> None:
    for place, comment in comments.items():
        part: Schema = schema
        for key in place:
            properties = resolved(schema, part).get("properties", {})
            if key not in properties:
                break
            part = properties[key]
        else:
            part["description"] = comment


def _describe_features(schema: Schema) -> None:
    """Take the descriptions of a feature's keys from the list at the top of the file."""
    words = {
        "name": "Column of fct_exit_features.",
        "type": "A number has a range; a category has levels.",
        "range": "Lowest and highest valid value. A value outside counts as missing, and is counted.",
        "missing": "refused: a row without a value is skipped as bad_data. A fifth of the rows stops the run.",
        "low": "Words for marketing when a value below the median raises the risk.",
        "high": "Words for marketing when a value above the median raises the risk.",
        "reason": "Words for marketing of a category; {value} becomes the level.",
        "monotone": "increasing: a higher value may only raise the probability. decreasing: only lower it.",
        "levels": f"The only levels that the model may know. Without it: those of at least {MIN_USERS} users.",
    }
    properties = schema["$defs"]["Feature"]["properties"]
    if set(words) != set(properties):
        raise ValueError(f"features without a description: {set(words) ^ set(properties)}")
    for key, text in words.items():
        properties[key]["description"] = text


def _describe_options(schema: Schema) -> None:
    """Describe the keys that every CRM's section has."""
    words = {
        "max_batch": "Users in one request or job. At most the default; for Salesforce at most 100,000.",
        "max_in_flight": "Requests or jobs at the same time.",
        "limits": "At most `requests` in any `seconds`, for all threads together. An empty list: no limit.",
    }
    for name, section in schema["$defs"].items():
        for key, text in words.items() if name.endswith("Options") else ():
            section["properties"][key].setdefault("description", text)


def _drop_titles(part: Any) -> None:
    """Remove the titles that pydantic makes from names: an editor would show each name twice."""
    if isinstance(part, dict):
        if isinstance(part.get("title"), str):
            del part["title"]
        for value in part.values():
            _drop_titles(value)
    elif isinstance(part, list):
        for value in part:
            _drop_titles(value)
