{#- Schemas are the layers: staging, intermediate, marts. On BigQuery, where datasets of a project share one
    namespace, each is prefixed: winback_staging, winback_marts. -#}
{% macro layer(name) -%}
  {{ name if target.type == 'duckdb' else target.schema ~ '_' ~ name }}
{%- endmacro %}

{% macro generate_schema_name(custom_schema_name, node) -%}
  {{ layer(custom_schema_name) if custom_schema_name else target.schema }}
{%- endmacro %}
