{#- Data tests read this run's rows only, so that their cost does not grow with history. dbt renders a test's `where` before it
    loads macros, so the YAML holds a placeholder, and this override of dbt's macro fills in the window. -#}
{% macro get_where_subquery(relation) -%}
  {%- set where = config.get('where', '') -%}
  {%- if not where -%} {{ return(relation) }} {%- endif -%}
  {%- set bounded = where
      | replace('__first_day_in_reach__', first_day_in_reach())
      | replace('__first_moment_in_reach__', first_moment_in_reach())
      | replace('__from_at__', moment(var('from_at')))
      | replace('__profiles_from__', moment(var('profiles_from'))) -%}
  {{ return('(select * from ' ~ relation ~ ' where ' ~ bounded ~ ') dbt_subquery') }}
{%- endmacro %}
