"""Reference pages of the configuration files: every key, its values, its default, and the file itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from docgen.markdown import code, page, table
from docgen.schemas import FILES, ConfigFile, Schema, resolved, schema_of


def index_page() -> str:
    """Return the page that lists the files."""
    return page(
        "Configuration files",
        "People edit these files. They are in `config/`, or in the folder that `WINBACK_CONFIG` names.\n"
        "Every command checks the files that it reads. A mistake stops it with exit code 2, and the message names the file,\n"
        "the line and the fix.",
        table(
            ("file", "decides", "edited by"),
            [(f"[`{file.name}.yml`]({file.name}.md)", file.decides, file.readers) for file in FILES],
        ),
        "## Editor support",
        "The first line of each file names its JSON Schema in `config/schemas/`:",
        "```yaml\n# yaml-language-server: $schema=schemas/funnel.json\n```",
        "An editor with the YAML language server (VS Code with the YAML extension, Neovim, IntelliJ) then completes keys,\n"
        "shows what a key means, and marks mistakes. It works without a network. The schema knows types and ranges. Rules that\n"
        "join several keys, such as `medium` below `high`, are checked by winback alone.",
    )


def file_page(file: ConfigFile) -> str:
    """Return the page of a file."""
    schema = schema_of(file)
    return page(
        f"{file.name}.yml",
        f"{file.decides}. Edited by: {file.readers}.",
        "## Keys",
        table(("key", "values", "default", "meaning"), list(_rows(schema, schema, ""))),
        "## The file",
        "As the project ships it:",
        f"```yaml\n{file.path.read_text(encoding='utf-8').rstrip()}\n```",
    )


def _rows(schema: Schema, part: Schema, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    required = part.get("required", [])
    for name, each in part.get("properties", {}).items():
        key, value = f"{prefix}{name}", resolved(schema, each)
        entry = resolved(schema, value.get("items", {})) if isinstance(value.get("items"), dict) else {}
        default = "required" if name in required else code(_default(value))
        if "properties" in value:
            yield code(key), "section", "required" if name in required else "", value.get("description", "")
            yield from _rows(schema, value, f"{key}.")
        elif "properties" in entry:
            yield code(key), "list", default, value.get("description", "")
            yield from _rows(schema, entry, f"{key}[].")
        else:
            yield code(key), _values(schema, value), default, value.get("description", "")
            named = value.get("additionalProperties")
            if isinstance(named, dict) and "properties" in resolved(schema, named):
                yield from _rows(schema, resolved(schema, named), f"{key}.<name>.")


def _default(value: Schema) -> str:
    if "default" not in value or value["default"] in (None, "", [], {}):
        return ""
    return re.sub(r"(?<![\w.])(\d+)\.0\b", r"\1", json.dumps(value["default"], ensure_ascii=False))


def _values(schema: Schema, part: Schema) -> str:
    """Say in words what a value may be."""
    value = resolved(schema, part)
    if "anyOf" in value:
        return " or ".join(_values(schema, each) for each in value["anyOf"] if each.get("type") != "null")
    if "const" in value:
        return code(value["const"]) or "empty"
    if "enum" in value:
        return ", ".join(code(each) for each in value["enum"])
    kind = value.get("type", "any")
    if kind == "array":
        inner: Schema = value.get("items") or next(iter(value.get("prefixItems", [])), {})
        count = (
            f"{value['minItems']} " if value.get("minItems") == value.get("maxItems") and "minItems" in value else ""
        )
        words = _values(schema, inner)
        return f"list of {count}{words.replace('number', 'numbers', 1)}" if count else f"list of {words}"
    if kind == "object":
        named = value.get("additionalProperties")
        return f"names with {_values(schema, named)}" if isinstance(named, dict) and named else "names with values"
    word = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}.get(
        kind, str(kind)
    )
    bounds = [
        f"{words} {value[key]:,}"
        for key, words in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
        )
        if key in value
    ]
    return " ".join([word, *bounds])
