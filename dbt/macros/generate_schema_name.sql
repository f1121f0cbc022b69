{#- One schema per layer: staging, intermediate, marts. On BigQuery all datasets of a project share one namespace, so each name
    has a prefix: winback_staging, winback_marts. An audit builds the same layers in schemas of its own: audit_marts,
    winback_audit_marts. -#}
{% macro layer(name) -%}
  {%- set built = 'audit_' ~ name if var('audit_percent') > 0 else name -%}
  {{ built if target.type == 'duckdb' else target.schema ~ '_' ~ built }}
{%- endmacro %}

{% macro generate_schema_name(custom_schema_name, node) -%}
  {{ layer(custom_schema_name) if custom_schema_name else target.schema }}
{%- endmacro %}
