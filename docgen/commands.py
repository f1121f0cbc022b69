"""Reference page of the commands, from the command line itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from docgen.markdown import code, page, table
from jobs.cli.app import RENAMED, cli

# Every command has one place here; `commands_page` fails when one is missing.
GROUPS: dict[str, tuple[str, ...]] = {
    "Data": ("load", "backfill"),
    "The schedule": ("run", "rebuild", "audit"),
    "Model": ("dataset", "train", "evaluate", "promote", "rollback"),
    "Operation": ("doctor", "status", "dead-letters", "migrate", "switch-crm", "repair-watermark"),
    "Erasure": ("erase", "compact"),
    "Try it out": ("demo", "local-crm", "backtest"),
}


def commands() -> dict[str, click.Command]:
    """Return every command by name."""
    context = click.Context(cli)
    found = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None and not command.hidden}


def commands_page() -> str:
    """Return the page.

    Raises: ValueError if a command is in no group, or in two.
    """
    known = commands()
    placed = [name for names in GROUPS.values() for name in names]
    if sorted(placed) != sorted(known):
        raise ValueError(f"commands without one place: {set(placed) ^ set(known)}")
    parts = [
        "Every command has `--help`, and `--json` for one JSON object on stdout.\n"
        "Logs go to stderr: as text on a terminal, as JSON lines elsewhere.\n"
        "What the exit codes mean is on [their own page](exit-codes.md).",
        table(
            ("command", "does"),
            [(f"[`winback {name}`](#winback-{name})", _summary(known[name])) for name in placed],
        ),
    ]
    for group, names in GROUPS.items():
        parts.append(f"## {group}")
        for name in names:
            parts += _section(name, known[name])
    if RENAMED:
        parts += [
            "## Earlier names",
            "These names work until the next release, with a warning.",
            table(
                ("earlier name", "now"),
                [(code(old), code(new)) for old, new in RENAMED.items()],
            ),
        ]
    return page("Commands", *parts)


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").replace("\b\n", "\b")


def _summary(command: click.Command) -> str:
    """Return the first paragraph of the help."""
    return " ".join(_help(command).split("\n\n")[0].split())


def _section(name: str, command: click.Command) -> Iterator[str]:
    yield f"### winback {name}"
    yield _summary(command)
    for paragraph in _help(command).split("\n\n")[1:]:
        lines = paragraph.removeprefix("\b").splitlines()
        examples = [line for line in lines if line.startswith("winback ")]
        if examples:
            yield "```text\n" + "\n".join(examples) + "\n```"
        yield "\n".join(line for line in lines if not line.startswith("winback "))
    rows = [_row(each) for each in command.params if not getattr(each, "hidden", False)]
    yield table(("argument or option", "default", "meaning"), rows)


def _row(parameter: click.Parameter) -> tuple[str, str, str]:
    # A date or a path has nothing to list; a choice and a range have.
    kind = parameter.make_metavar(click.Context(cli)) if isinstance(parameter, click.Argument) else _values(parameter)
    if isinstance(parameter, click.Argument):
        return code(kind), "", "the user's id" if parameter.name == "user" else ""
    assert isinstance(parameter, click.Option)
    name = ", ".join([*parameter.opts, *parameter.secondary_opts])
    words = f"{name} {kind}".strip()
    shown = "" if parameter.is_flag or parameter.default in (None, ()) else code(_plain(parameter.default))
    required = " Required." if parameter.required else ""
    return code(words), shown, (parameter.help or "") + required


def _values(parameter: click.Parameter) -> str:
    kind = parameter.type
    if getattr(parameter, "is_flag", False):
        return ""
    if isinstance(kind, click.IntRange | click.FloatRange):
        return f"{kind.min}..{'' if kind.max is None else kind.max}"
    if isinstance(kind, click.Choice):
        return "|".join(map(str, kind.choices))
    return re.sub(r"[^A-Z]+", "_", kind.name.upper()).strip("_")


def _plain(default: object) -> str:
    return "" if re.search(r"<\w+|Sentinel", repr(default)) else str(default)
