"""The file of refused rows: a CSV with each row's table, file, place and reasons, and its values as they came."""

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
    """Raises: ContractError where the file is not called .csv, is there already (none is overwritten), or cannot be made."""
    if path.suffix.lower() != ".csv":
        raise ContractError(f"{path.name} would hold CSV. Name a file for the rows set aside that ends in .csv.")
    if path.exists() or path.is_symlink():
        raise ContractError(f"{path.name} is there already. Name a new file for the rows set aside.")
    if not path.parent.is_dir():
        raise ContractError(f"There is no folder {path.parent}/ for the rows set aside. Create it.")
    try:
        _partial(path).unlink(missing_ok=True)
        _partial(path).touch(mode=0o600)  # it will hold users' data
    except OSError as error:
        raise ContractError(f"{path.name} cannot be written: {error.strerror}. Name another file.") from None
    _partial(path).unlink()


def write_set_aside(connection: duckdb.DuckDBPyConnection, incoming: Sequence[Staging], path: Path) -> Path | None:
    """Write the refused rows to a file beside `path`, to be renamed to it; None where none was refused."""
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
    """Whether a file that could be read has a row that nothing refuses; a row with several faults is one row."""
    sql = f"select 1 from {file.rows} where breaches = 0"
    if not any(other.problems for other in each.files):  # else no file of the table was compared with what is stored
        sql += f" and id not in (select id from odd_{each.key})"
    return bool(connection.execute(f"{sql} limit 1").fetchall())


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _parts(each: Staging, file: RawFile) -> list[str]:
    """SQL of a file's refused rows: those that break a check, those refused beside others, and lines that could not be split."""
    if not file.row_problems:
        return []
    place = f'{_text(each.key)} as "table", {_text(file.label)} as file'
    values = ", ".join(f'{_value(column)} as "{column.name}"' for column in each.table.columns)
    reasons = ", ".join(
        f"case when breaches & {1 << bit} <> 0 then {_reason(check)} end" for bit, check in enumerate(file.checks)
    )
    odd = f"case when id in (select id from odd_{each.key}) then 'new under a key that is taken, or before the watermark' end"
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
    """SQL of a value as it came, or as it would have been stored."""
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
