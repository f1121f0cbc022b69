{#- All columns of a relation except those listed. -#}
{% macro all_but(relation, columns) -%} {{ return(adapter.dispatch('all_but')(relation, columns)) }} {%- endmacro %}
{% macro duckdb__all_but(relation, columns) -%} {{ relation }}.* exclude ({{ columns | join(', ') }}) {%- endmacro %}
{% macro bigquery__all_but(relation, columns) -%} {{ relation }}.* except ({{ columns | join(', ') }}) {%- endmacro %}

{#- True if the relation has the column now. It reads the catalog, which is free. While dbt parses, it returns true and sends no
    query. -#}
{% macro has_column(relation, name) -%}
  {%- if not execute -%} {{ return(true) }} {%- endif -%}
  {{ return(name in adapter.get_columns_in_relation(relation) | map(attribute='name') | map('lower') | list) }}
{%- endmacro %}
