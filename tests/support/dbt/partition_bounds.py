"""Finds statements that read a table that grows with time without a literal lower bound on the day.

Such a table is partitioned by day. BigQuery reads and bills only the days within a literal bound on the partition column. It
reads every day if the bound is missing, inside a function, or from a subquery. So the bound must be in the same
SELECT, MERGE, DELETE or UPDATE that names the table: https://cloud.google.com/bigquery/docs/querying-partitioned-tables
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

Node = exp.Expr
Is = Callable[[object], bool]

_VERBS: dict[type[Node], str] = {
    exp.Select: "read",
    exp.Merge: "merged into",
    exp.Delete: "deleted from",
    exp.Update: "updated",
}
_FROM_BELOW = (exp.EQ, exp.GT, exp.GTE)
_FROM_ABOVE = (exp.EQ, exp.LT, exp.LTE)
_CONSTANTS = (exp.Literal, exp.Parameter, exp.Placeholder)
_CONVERSIONS = (exp.Cast, exp.Date, exp.Datetime, exp.Timestamp)


def violations(sql: str, partitions: Mapping[str, str]) -> list[str]:
    """Return a description of each unbounded read in BigQuery SQL of one or more statements.

    `partitions` has the partition column of each big table, and of each view that only renames one: `table` or
    `dataset.table` -> column. Creating such a view reads nothing; the query that selects from it must have the bound.
    A statement that cannot be parsed is a violation if it names a big table.
    """
    try:
        statements = [statement for statement in sqlglot.parse(sql, dialect="bigquery") if statement]
    except SqlglotError:
        return _not_understood(sql, partitions)
    found = []
    for statement in statements:
        if _makes_a_view_of(statement, partitions):
            continue
        for command in statement.find_all(exp.Command):
            found += _not_understood(f"{command.this} {command.expression}", partitions)
        for table in statement.find_all(exp.Table):
            scope = table.find_ancestor(exp.Select, exp.DML, exp.DDL)
            column = _partition_column(table, partitions)
            if column and scope and type(scope) in _VERBS:
                found += _unbounded(table, column, scope)
    return found


def _not_understood(text: str, partitions: Mapping[str, str]) -> list[str]:
    names = [name.split(".")[-1] for name in partitions]
    # Only whole names match: int_sessions is not int_sessions_this_run.
    return [f"{name}: named in a statement that cannot be parsed" for name in names if re.search(rf"\b{name}\b", text)]


def _makes_a_view_of(statement: Node, partitions: Mapping[str, str]) -> bool:
    made = statement.this.find(exp.Table) if isinstance(statement, exp.Create) and statement.kind == "VIEW" else None
    return made is not None and _partition_column(made, partitions) is not None


def _partition_column(table: exp.Table, partitions: Mapping[str, str]) -> str | None:
    parts = [part.name for part in table.parts]
    if len(parts) == 1 and _is_cte(table):
        return None
    for name, column in partitions.items():
        if parts[-name.count(".") - 1 :] == name.split("."):
            return column
    return None


def _is_cte(table: exp.Table) -> bool:
    """Whether a bare name means a common table expression; inside that expression it means the table."""
    around = list(_upwards(table))
    ctes = [cte for node in around for cte in getattr(node, "ctes", [])]
    return any(cte.alias == table.name and not any(cte is node for node in around) for cte in ctes)


def _upwards(node: Node) -> Iterator[Node]:
    while node.parent:
        node = node.parent
        yield node


def _unbounded(table: exp.Table, column: str, scope: Node) -> list[str]:
    joins = [join for join in scope.find_all(exp.Join) if join.find_ancestor(exp.Select, exp.DML) is scope]
    others = joins or scope.args.get("using") or (isinstance(scope, exp.Update) and scope.args.get("from_"))

    def is_column(node: object) -> bool:
        if not isinstance(node, exp.Column) or node.name.lower() != column.lower():
            return False
        # Without a qualifier it may belong to another table.
        return node.table.lower() == table.alias_or_name.lower() if node.table else not others

    whys = [
        next((why for term in terms if (why := _why_not(term, column, is_column))), f"no bound on {column}")
        for terms in _conditions(table, scope, joins)
        if not any(_is_bound(term, is_column) for term in terms)
    ]
    if not whys:
        return []
    verb = _VERBS[type(scope)] if isinstance(scope, exp.Select) or table is scope.this else "read"
    place = scope.parent.alias if isinstance(scope.parent, (exp.CTE, exp.Subquery)) else ""
    return [f"{table.name}: every day is {verb}{_purpose(scope)}, {whys[0]}{f' (in {place})' if place else ''}"]


def _purpose(scope: Node) -> str:
    """Describe the scope: a max() or min() over all rows is an expensive way to find a watermark."""
    if not isinstance(scope, exp.Select) or scope.args.get("group"):
        return ""
    found = next((node for item in scope.expressions for node in item.find_all(exp.Max, exp.Min)), None)
    return f" to find its {found.key}()" if found else ""


def _conditions(table: exp.Table, scope: Node, joins: list[exp.Join]) -> list[list[Node]]:
    """Return the ways in which rows of the table are read, each as the terms that all those rows fulfil."""
    if not isinstance(scope, exp.Merge):
        where = scope.args.get("where")
        terms = list(_terms(where.this)) if where else []
        return [terms + [term for join in joins if _holds_of(join, table) for term in _terms(join.args.get("on"))]]
    if table is not scope.this:
        return [
            []
        ]  # as the source: rows without a match are inserted, so no condition of the MERGE applies to all rows
    matched = list(_terms(scope.args.get("on")))
    ways = [] if any(isinstance(term, exp.Boolean) and not term.this for term in matched) else [matched]
    unmatched = [
        when for when in scope.args["whens"].expressions if not when.args.get("matched") and when.args.get("source")
    ]
    return ways + [list(_terms(when.args.get("condition"))) for when in unmatched]


def _holds_of(join: exp.Join, table: exp.Table) -> bool:
    """Whether the join drops rows of the table that do not fulfil its condition: not on the preserved side of an outer join."""
    is_right = any(node is join.this for node in (table, *_upwards(table)))
    return {"": True, "LEFT": is_right, "RIGHT": not is_right}.get(join.side, False)


def _terms(condition: Node | None) -> Iterator[Node]:
    """Yield the terms that are joined by AND, outside of any OR."""
    node = condition.unnest() if condition else None
    if isinstance(node, exp.And):
        yield from _terms(node.left)
        yield from _terms(node.right)
    elif node:
        yield node


def _is_bound(term: Node, is_column: Is) -> bool:
    if isinstance(term, exp.Between):
        return is_column(term.this) and _is_literal(term.args["low"])
    if isinstance(term, exp.In):
        return is_column(term.this) and bool(term.expressions) and all(map(_is_literal, term.expressions))
    return (isinstance(term, _FROM_BELOW) and is_column(term.left) and _is_literal(term.right)) or (
        isinstance(term, _FROM_ABOVE) and is_column(term.right) and _is_literal(term.left)
    )


def _is_literal(node: Node) -> bool:
    """Whether a value is known before anything is read, also after a conversion."""
    node = node.unnest()
    return isinstance(node, _CONSTANTS) or (isinstance(node, _CONVERSIONS) and _is_literal(node.this))


def _why_not(term: Node, column: str, is_column: Is) -> str | None:
    """Return why a term about the partition column does not bound it."""
    outside = list(term.walk(prune=lambda node: isinstance(node, exp.Query)))
    is_named = any(is_column(node) for node in outside)
    if not is_named or isinstance(term, exp.Is) or not isinstance(term, (exp.Or, exp.Predicate)):
        return None
    is_inequality = isinstance(term, (exp.LT, exp.LTE, exp.GT, exp.GTE))
    reasons = {
        f"the bound on {column} stands under OR": isinstance(term, exp.Or),
        f"{column} is hidden in a function": not any(is_column(term.args.get(s)) for s in ("this", "expression")),
        f"{column} is compared with a subquery": any(isinstance(node, exp.Query) for node in outside),
        f"{column} is compared with a column": any(isinstance(n, exp.Column) and not is_column(n) for n in outside),
        f"{column} has an upper bound alone": is_inequality and any(map(_is_literal, (term.this, term.expression))),
    }
    return next((why for why, holds in reasons.items() if holds), f"{column} is not compared with a literal")
