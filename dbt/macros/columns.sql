{#- All columns of a relation in a query, but some. -#}
{% macro all_but(relation, columns) -%} {{ return(adapter.dispatch('all_but')(relation, columns)) }} {%- endmacro %}
{% macro duckdb__all_but(relation, columns) -%} {{ relation }}.* exclude ({{ columns | join(', ') }}) {%- endmacro %}
{% macro bigquery__all_but(relation, columns) -%} {{ relation }}.* except ({{ columns | join(', ') }}) {%- endmacro %}

{#- Whether a relation has a column now. A look into the catalog, which costs nothing; while dbt parses, nothing is asked. -#}
{% macro has_column(relation, name) -%}
  {%- if not execute -%} {{ return(true) }} {%- endif -%}
  {{ return(name in adapter.get_columns_in_relation(relation) | map(attribute='name') | map('lower') | list) }}
{%- endmacro %}
