"""Writes the file of refused rows: a CSV with each row's table, file, number and reasons, and its original values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from core.errors import ContractError
from warehouse.loading.files import RawFile
from warehouse.loading.problems import Check
from warehouse.loading.staging import Staging
from warehouse.tables import TIMESTAMP, Column


def refuse_unusable_target(path: Path) -> None:
    """Check the target. Raises: ContractError if its name does not end in .csv, it exists already, or it cannot be created."""
    if path.suffix.lower() != ".csv":
        raise ContractError(f"{path.name} would hold CSV. Name a file for the rows set aside that ends in .csv.")
    if path.exists() or path.is_symlink():
        raise ContractError(f"{path.name} exists already. Name a new file for the rows set aside.")
    if not path.parent.is_dir():
        raise ContractError(f"The folder {path.parent}/ for the rows set aside does not exist. Create it.")
    try:
        _partial(path).unlink(missing_ok=True)
        _partial(path).touch(mode=0o600)  # it will hold users' data
    except OSError as error:
        raise ContractError(f"{path.name} cannot be written: {error.strerror}. Name another file.") from None
    _partial(path).unlink()


def write_set_aside(connection: duckdb.DuckDBPyConnection, incoming: Sequence[Staging], path: Path) -> Path | None:
    """Write the refused rows to a file next to `path`, to be renamed to it. Returns None if no row was refused."""
    parts = [part for each in incoming for file in each.files for part in _parts(each, file)]
    if not parts:
        return None
    partial = _partial(path)
    partial.touch(mode=0o600)
    target = "'" + str(partial).replace("'", "''") + "'"
    connection.execute(
        f"copy ({' union all by name '.join(parts)}) to {target} (format csv, header true, use_tmp_file false)"
    )
    return partial


def keeps_rows(connection: duckdb.DuckDBPyConnection, each: Staging, file: RawFile) -> bool:
    """Whether a readable file has a row without faults. A row with several faults counts once."""
    sql = f"select 1 from {file.rows} where breaches = 0"
    if not any(
        other.problems for other in each.files
    ):  # otherwise no file of the table was compared with the stored rows
        sql += f" and id not in (select id from odd_{each.key})"
    return bool(connection.execute(f"{sql} limit 1").fetchall())


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _parts(each: Staging, file: RawFile) -> list[str]:
    """SQL for a file's refused rows: failed checks, conflicts with other rows, and lines that could not be split."""
    if not file.row_problems:
        return []
    place = f'{_text(each.key)} as "table", {_text(file.label)} as file'
    values = ", ".join(f'{_value(column)} as "{column.name}"' for column in each.table.columns)
    reasons = ", ".join(
        f"case when breaches & {1 << bit} <> 0 then {_reason(check)} end" for bit, check in enumerate(file.checks)
    )
    words = "differs from a row with its key, or new before the watermark"
    odd = f"case when id in (select id from odd_{each.key}) then '{words}' end"
    parts = [
        f"""(select {place}, {file.row_number} as "row", array_to_string([{reasons}, {odd}], '; ') as reason,
        null::varchar as line, {values} from {file.rows}
        where breaches <> 0 or id in (select id from odd_{each.key}) order by id)"""
    ]
    if file.count_rejected:
        parts.append(f"""(select {place}, "row", string_agg(what, '; ') as reason, any_value(line) as line
        from rejected_{each.key} where file = {file.number} group by "row" order by "row")""")
    return parts


def _value(column: Column) -> str:
    """SQL for the original value, or the value to be stored."""
    typed = f'"{column.name}"'
    text = f"strftime({typed}, '%Y-%m-%dT%H:%M:%S.%fZ')" if column.type == TIMESTAMP else f"{typed}::varchar"
    return f"case when raw is null then {text} else raw['{column.name}'] end"


def _reason(check: Check) -> str:
    words = " ".join(
        f"when {place} then {_text(f'{check.column}: {what}')}" for place, (what, _) in enumerate(check.words)
    )
    return f"case {check.words_index} {words} end"


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
