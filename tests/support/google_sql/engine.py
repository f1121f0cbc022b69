"""A BigQuery of Google's own parts: statements are analysed with types and executed by GoogleSQL's reference implementation.

    google = GoogleSql()
    google.create("p.d.t", {"user_id": "STRING", "at": "TIMESTAMP"})
    google.append("p.d.t", [{"user_id": "u", "at": moment}])
    google.run("select user_id from `p`.`d`.`t`").rows

It needs no network. It cannot judge bytes, permissions, partition pruning or speed.
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
    """What a statement breaks that BigQuery would refuse as well."""


def no_rows() -> Any:
    """The content of an empty table."""
    return service.TableContent(table_data=service.TableData())


@dataclass
class Relation:
    """A table's or view's columns, by name their type, and the table's rows or the view's query."""

    columns: dict[str, str]
    content: Any = field(default_factory=no_rows)
    query: str = ""
    version: int = 0
    reads: tuple[int, ...] = ()  # of a view: the versions of what it read when `content` was made


@dataclass
class Result:
    """What a query returned."""

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

    `is_checking` is false for statements that were analysed before, with other literals: executing alone takes half the time.
    """

    def __init__(self, *, is_checking: bool = True) -> None:
        self._is_checking = is_checking
        self.relations: dict[str, Relation] = {}
        self._version = 0
        self._checks: dict[str, dict[str, str]] = {}  # what was analysed, but for its times
        self._lock = RLock()  # dbt sends from several threads

    # Tables

    def create(self, name: str, columns: Mapping[str, str]) -> None:
        """Make an empty table; types in BigQuery's words."""
        self._put(name, Relation(dict(columns)))

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows; a column that a row lacks is null."""
        relation = self.relations[name]
        for row in rows:
            cells = [cell_of(row.get(column), kind) for column, kind in relation.columns.items()]
            relation.content.table_data.row.add(cell=cells)
        self._put(name, relation)

    def drop(self, name: str) -> None:
        """Remove a table or view if it is there."""
        self.relations.pop(name, None)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Every row of a table or view."""
        relation = self._filled(name)
        found = Result(relation.columns, relation.content).rows
        return [dict(zip(relation.columns, row, strict=True)) for row in found]

    def _put(self, name: str, relation: Relation) -> None:
        self._version += 1
        relation.version = self._version
        self.relations[name] = relation

    # Statements

    def analyse(self, sql: str, parameters: Mapping[str, Any] | None = None) -> dict[str, str]:
        """The columns that a query, or the table or view that a statement makes, has with their types.

        Raises: ServerError with GoogleSQL's words, NotBigQueryError.
        """
        text = flat(sql)
        with self._lock:
            key = self._key(text)
            if key not in self._checks:
                listed = getattr(self._analysed(text, parameters), "output_column_list", ())
                self._checks[key] = {column.name: name_of(column.column.type) for column in listed}
        return self._checks[key]

    def run(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
        """Analyse a statement, execute it and return what it returned.

        Raises: ServerError with GoogleSQL's words, NotBigQueryError.
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
        return self._query(text, parameters)  # which refuses whatever is no query

    def _create(self, text: str, parameters: Mapping[str, Any] | None) -> Result:
        name = _NAMED.findall(text)[0]
        head, query = re.split(_AS, text, maxsplit=1)
        query = query.strip().rstrip(";")
        columns = self._checked(text, parameters)
        if re.search(r"\bview\b", head[: head.index(name)], re.IGNORECASE):
            self._put(name, Relation(columns or self.analyse(query), query=query))
        elif _NO_ROWS.search(query):  # asked for its columns alone
            self._put(name, Relation(columns or self.analyse(query)))
        else:
            found = self._query(query, parameters)
            self._put(name, Relation(columns or found.columns, found.content))
        return Result({}, no_rows())

    def _checked(self, text: str, parameters: Mapping[str, Any] | None) -> dict[str, str]:
        """Analyse a statement; the columns of what a CREATE makes, which are those that it declares, if it does.

        BigQuery would turn an INT64 into a declared FLOAT64; a contract that needs that is wrong on DuckDB.
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
        """Equal for statements that differ in their times alone, over tables of the same columns."""
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
        """The tables and views that a statement names and that exist."""
        return [name for name in dict.fromkeys(_NAMED.findall(text)) if name in self.relations]

    def _filled(self, name: str) -> Relation:
        """A relation with its rows: a view's query is asked again only if something below it has changed."""
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
    """A resolved statement: a union of unions of classes, which nest by a field `parent`. It has the attributes of them all."""

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
    """Without comments, and with each table's path as one name."""
    text = re.sub(r"/\*.*?\*/", "", sql, flags=re.DOTALL)
    return _PATH.sub(r"`\1.\2.\3`", re.sub(r"^\s*--[^\n]*$", "", text, flags=re.MULTILINE))
