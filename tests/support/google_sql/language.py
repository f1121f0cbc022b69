"""Parts of GoogleSQL that BigQuery supports: features, reserved words, names of types, functions."""

from __future__ import annotations

from functools import cache
from typing import Any

from zetasql.wasi._pb2.zetasql.local_service import local_service_pb2 as service
from zetasql.wasi._pb2.zetasql.proto import options_pb2, simple_catalog_pb2
from zetasql.wasi._pb2.zetasql.public import options_pb2 as language_pb2
from zetasql.wasi._pb2.zetasql.public import type_pb2

from tests.support.google_sql.client import call
from tests.support.google_sql.values import KINDS

# Parts of GoogleSQL that BigQuery's reference lacks: https://cloud.google.com/bigquery/docs/reference/standard-sql/query-syntax
_NOT_IN_BIGQUERY = (
    "AGGREGATE_FILTERING",
    "ARRAY_EQUALITY",
    "ARRAY_ORDERING",
    "BARE_ARRAY_ACCESS",
    "CONCAT_MIXED_TYPES",
    "DML_RETURNING",
    "INSERT_ON_CONFLICT_CLAUSE",
    "LATERAL_JOIN",
    "LIMIT_OFFSET_EXPRESSIONS",
    "LITERAL_CONCATENATION",
    "NULLIFZERO_ZEROIFNULL",
    "OMIT_INSERT_COLUMN_LIST",
    "WITH_EXPRESSION",
)
# https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types
_ALIASES = {"INT64": ("int", "smallint", "integer", "bigint", "tinyint", "byteint"), "NUMERIC": ("decimal",)}


@cache
def language() -> Any:
    """Return the options that BigQuery enables, as far as known. Without the reserved word, QUALIFY needs a WHERE."""
    request = service.LanguageOptionsRequest(maximum_features=True)
    found = call("GetLanguageOptions", request, options_pb2.LanguageOptionsProto)
    found.product_mode = language_pb2.PRODUCT_EXTERNAL
    del found.supported_statement_kinds[:]  # an empty list means all
    off = {language_pb2.LanguageFeature.Value(f"FEATURE_{name}") for name in _NOT_IN_BIGQUERY}
    on = [feature for feature in found.enabled_language_features if feature not in off]
    del found.enabled_language_features[:]
    found.enabled_language_features.extend(on)
    return found


@cache
def empty_catalog() -> Any:
    """Return a catalog of functions and names of types, without tables."""
    catalog = simple_catalog_pb2.SimpleCatalogProto(name="bigquery")
    catalog.builtin_function_options.language_options.CopyFrom(language())
    for kind, aliases in _ALIASES.items():
        for alias in aliases:
            catalog.named_type.add(name=alias, type=type_pb2.TypeProto(type_kind=KINDS[kind].type_kind))
    return catalog
