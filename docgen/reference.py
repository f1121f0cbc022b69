"""Every generated file, by its path: the reference pages, the schemas and the diagrams."""

from __future__ import annotations

from pathlib import Path

from docgen import codes, commands, config_files, diagrams, fields, schemas, settings, tables


def reference(root: Path) -> dict[Path, str]:
    """Return the contents of every generated file."""
    folder = root / "docs" / "reference"
    return {
        folder / "commands.md": commands.commands_page(),
        folder / "settings.md": settings.settings_page(),
        folder / "exit-codes.md": codes.exit_codes_page(),
        folder / "reason-codes.md": codes.reason_codes_page(),
        folder / "crm-fields.md": fields.fields_page(),
        folder / "config" / "index.md": config_files.index_page(),
        **{folder / "config" / f"{file.name}.md": config_files.file_page(file) for file in schemas.FILES},
        folder / "tables" / "index.md": tables.index_page(),
        **{folder / "tables" / f"{layer}.md": tables.layer_page(layer) for layer in tables.LAYERS},
        **{root / "docs" / "images" / f"{name}.svg": diagrams.svg(each) for name, each in diagrams.DIAGRAMS.items()},
        **{file.schema_path: schemas.written(schemas.schema_of(file)) for file in schemas.FILES},
    }


def write(root: Path) -> list[Path]:
    """Write the files that differ from what is there; returns their paths."""
    written = []
    for path, text in reference(root).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written
