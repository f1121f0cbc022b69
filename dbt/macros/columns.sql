{#- All columns of a relation in a query, but some. -#}
{% macro all_but(relation, columns) -%} {{ return(adapter.dispatch('all_but')(relation, columns)) }} {%- endmacro %}
{% macro duckdb__all_but(relation, columns) -%} {{ relation }}.* exclude ({{ columns | join(', ') }}) {%- endmacro %}
{% macro bigquery__all_but(relation, columns) -%} {{ relation }}.* except ({{ columns | join(', ') }}) {%- endmacro %}
