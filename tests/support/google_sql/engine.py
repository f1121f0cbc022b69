"""BigQuery for tests: GoogleSQL's reference implementation analyses statements with types, and executes them.

    google = GoogleSql()
    google.create("p.d.t", {"user_id": "STRING", "at": "TIMESTAMP"})
    google.append("p.d.t", [{"user_id": "u", "at": moment}])
    google.run("select user_id from `p`.`d`.`t`").rows

It works without a network. It cannot test bytes, permissions, partition pruning or speed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

from zetasql.wasi._pb2.zetasql.local_service import local_service_pb2 as service
from zetasql.wasi._pb2.zetasql.proto import options_pb2, simple_catalog_pb2

from tests.support.google_sql.client import call
from tests.support.google_sql.language import empty_catalog, language
from tests.support.google_sql.merge import as_query
from tests.support.google_sql.values import KINDS, cell_of, kind_of, name_of, value_of

_PATH = re.compile(r"`([\w-]+)`\.`?(\w+)`?\.`?(\w+)`?")
_AS = re.compile(r"^\s*as\s+(?=(?:--[^\n]*\s+)*(?:\(|select\b|with\b))", re.MULTILINE | re.IGNORECASE)
_TIME = re.compile(r"'\d{4}-\d\d-\d\d[^']*'|__dbt_tmp\d+")
_NO_ROWS = re.compile(r"\blimit 0[\s)]*$", re.IGNORECASE)
_NAMED = re.compile(r"`([\w-]+\.\w+\.\w+)`")


class NotBigQueryError(Exception):
    """A statement breaks a rule of BigQuery that the reference implementation does not check."""


def no_rows() -> Any:
    """Return the content of an empty table."""
    return service.TableContent(table_data=service.TableData())


@dataclass
class Relation:
    """Columns of a table or view with their types, and the rows of the table or the query of the view."""

    columns: dict[str, str]
    content: Any = field(default_factory=no_rows)
    query: str = ""
    version: int = 0
    reads: tuple[int, ...] = ()  # of a view: the versions of its inputs when `content` was computed


@dataclass
class Result:
    """The result of a query."""

    columns: dict[str, str]
    content: Any

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """Rows as Python values; times are aware UTC."""
        kinds = list(self.columns.values())
        return [
            tuple(value_of(cell, kind) for cell, kind in zip(row.cell, kinds, strict=True))
            for row in self.content.table_data.row
        ]


class GoogleSql:
    """Tables in memory, by `project.dataset.table`.

    `is_checking` is false for statements that were already analysed with other literals. Execution alone takes half the time.
    """

    def __init__(self, *, is_checking: bool = True) -> None:
        self._is_checking = is_checking
        self.relations: dict[str, Relation] = {}
        self._version = 0
        self._checks: dict[str, dict[str, str]] = {}  # analysed statements, without their times
        self._lock = RLock()  # dbt sends from several threads

    # Tables

    def create(self, name: str, columns: Mapping[str, str]) -> None:
        """Create an empty table; types as BigQuery names them."""
        self._put(name, Relation(dict(columns)))

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; a column that a row lacks is null."""
        relation = self.relations[name]
        for row in rows:
            cells = [cell_of(row.get(column), kind) for column, kind in relation.columns.items()]
            relation.content.table_data.row.add(cell=cells)
        self._put(name, relation)

    def drop(self, name: str) -> None:
        """Remove a table or view if it exists."""
        self.relations.pop(name, None)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return every row of a table or view."""
        relation = self._filled(name)
        found = Result(relation.columns, relation.content).rows
        return [dict(zip(relation.columns, row, strict=True)) for row in found]

    def _put(self, name: str, relation: Relation) -> None:
        self._version += 1
        relation.version = self._version
        self.relations[name] = relation

    # Statements

    def analyse(self, sql: str, parameters: Mapping[str, Any] | None = None) -> dict[str, str]:
        """Return the columns and types of a query, or of the table or view that a statement creates.

        Raises: ServerError with GoogleSQL's message, NotBigQueryError.
        """
        text = flat(sql)
        with self._lock:
            key = self._key(text)
            if key not in self._checks:
                listed = getattr(self._analysed(text, parameters), "output_column_list", ())
                self._checks[key] = {column.name: name_of(column.column.type) for column in listed}
        return self._checks[key]

    def run(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
        """Analyse and execute a statement, and return its result.

        Raises: ServerError with GoogleSQL's message, NotBigQueryError.
        """
        with self._lock:
            return self._run(flat(sql), parameters)

    def _run(self, text: str, parameters: Mapping[str, Any] | None) -> Result:
        verb = text.split(maxsplit=1)[0].lower()
        if verb == "create":
            return self._create(text, parameters)
        if verb == "merge":
            return self._merge(text)
        if verb == "delete":
            return self._delete(text, parameters)
        return self._query(text, parameters)  # which refuses anything that is not a query

    def _create(self, text: str, parameters: Mapping[str, Any] | None) -> Result:
        name = _NAMED.findall(text)[0]
        head, query = re.split(_AS, text, maxsplit=1)
        query = query.strip().rstrip(";")
        columns = self._checked(text, parameters)
        if re.search(r"\bview\b", head[: head.index(name)], re.IGNORECASE):
            self._put(name, Relation(columns or self.analyse(query), query=query))
        elif _NO_ROWS.search(query):  # asked only for its columns
            self._put(name, Relation(columns or self.analyse(query)))
        else:
            found = self._query(query, parameters)
            self._put(name, Relation(columns or found.columns, found.content))
        return Result({}, no_rows())

    def _checked(self, text: str, parameters: Mapping[str, Any] | None) -> dict[str, str]:
        """Analyse a statement; return the columns of what a CREATE makes: the declared ones, if any.

        BigQuery would convert an INT64 to a declared FLOAT64; a contract that relies on that is wrong on DuckDB.
        """
        if not self._is_checking:
            return {}
        key = self._key(text)
        if key not in self._checks:
            statement = self._analysed(text, parameters)
            made = {column.name: name_of(column.column.type) for column in getattr(statement, "output_column_list", ())}
            listed = getattr(statement, "column_definition_list", ())
            declared = {column.name: name_of(column.type) for column in listed} or made
            if declared != made:
                raise NotBigQueryError(f"declared as {declared} and made as {made}")
            self._checks[key] = made
        return self._checks[key]

    def _key(self, text: str) -> str:
        """Return a key that is equal for statements that differ only in their times, over tables with the same columns."""
        return _TIME.sub("", text) + repr([self.relations[name].columns for name in self._named(text)])

    def _merge(self, text: str) -> Result:
        self._checked(text, None)
        name, query = as_query(text, lambda target: list(self.relations[target].columns))
        result = self._query(query, None)
        content = no_rows()
        counts = {"matched": 0, "kept": 0, "inserted": 0, "deleted": 0}
        for row in result.content.table_data.row:
            counts[row.cell[-1].string_value] += 1
            if row.cell[-1].string_value != "deleted":
                content.table_data.row.add(cell=row.cell[:-1])
        before = len(self.relations[name].content.table_data.row)
        if counts["matched"] + counts["kept"] + counts["deleted"] != before:
            raise NotBigQueryError(f"MERGE into {name} must match at most one source row for each target row")
        self._put(name, Relation(self.relations[name].columns, content))
        return Result({}, no_rows())

    def _delete(self, text: str, parameters: Mapping[str, Any] | None) -> Result:
        self._analysed(text, parameters)
        found = re.match(r"\s*delete\s+from\s+`([^`]+)`\s+where\s+(.*?);?\s*$", text, re.DOTALL | re.IGNORECASE)
        assert found, text
        kept = self._query(f"select * from `{found[1]}` where not coalesce(({found[2]}), false)", parameters)
        self._put(found[1], Relation(self.relations[found[1]].columns, kept.content))
        return Result({}, no_rows())

    def _query(self, text: str, parameters: Mapping[str, Any] | None) -> Result:
        contents = {name: self._filled(name).content for name in self._named(text)}
        request = service.EvaluateQueryRequest(
            sql=text, options=self._options(parameters), simple_catalog=self._catalog(contents), table_content=contents
        )
        for name, value in (parameters or {}).items():
            request.params.add(name=name, value=cell_of(value, kind_of(value)))
        answer = call("EvaluateQuery", request, service.EvaluateQueryResponse)
        return Result({c.name: name_of(c.type) for c in answer.prepared.columns}, answer.content)

    def _analysed(self, text: str, parameters: Mapping[str, Any] | None) -> Any:
        request = service.AnalyzeRequest(
            sql_statement=text, options=self._options(parameters), simple_catalog=self._catalog(self._named(text))
        )
        return _Flattened(call("Analyze", request, service.AnalyzeResponse).resolved_statement)

    def _named(self, text: str) -> list[str]:
        """Return the existing tables and views that a statement names."""
        return [name for name in dict.fromkeys(_NAMED.findall(text)) if name in self.relations]

    def _filled(self, name: str) -> Relation:
        """Return a relation with its rows. A view's query runs again only if one of its inputs has changed."""
        relation = self.relations[name]
        if relation.query:
            below = tuple(self._filled(n).version for n in self._named(relation.query))
            if relation.reads != below:
                relation.content = self._query(relation.query, None).content
                relation.reads = below
                self._version += 1
                relation.version = self._version
        return relation

    def _catalog(self, names: Iterable[str]) -> Any:
        catalog = simple_catalog_pb2.SimpleCatalogProto()
        catalog.CopyFrom(empty_catalog())
        for name in names:
            table = catalog.table.add(name=name)
            for column, kind in self.relations[name].columns.items():
                table.column.add(name=column, type=KINDS[kind], is_writable_column=True)
        return catalog

    def _options(self, parameters: Mapping[str, Any] | None) -> Any:
        options = options_pb2.AnalyzerOptionsProto(language_options=language(), default_timezone="UTC")
        for name, value in (parameters or {}).items():
            options.query_parameters.add(name=name, type=KINDS[kind_of(value)])
        return options


class _Flattened:
    """A resolved statement: nested unions of classes, linked by a field `parent`. It has the attributes of all of them."""

    def __init__(self, node: Any) -> None:
        while "node" in node.DESCRIPTOR.oneofs_by_name:
            node = getattr(node, node.WhichOneof("node"))
        self._nodes = [node]
        while "parent" in self._nodes[-1].DESCRIPTOR.fields_by_name:
            self._nodes.append(self._nodes[-1].parent)

    def __getattr__(self, name: str) -> Any:
        for node in self._nodes:
            if name in node.DESCRIPTOR.fields_by_name:
                return getattr(node, name)
        raise AttributeError(name)


def flat(sql: str) -> str:
    """Remove comments, and write each table's path as one name."""
    text = re.sub(r"/\*.*?\*/", "", sql, flags=re.DOTALL)
    return _PATH.sub(r"`\1.\2.\3`", re.sub(r"^\s*--[^\n]*$", "", text, flags=re.MULTILINE))
