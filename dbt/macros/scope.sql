{#- Which of the app's rows the staging views show: all of them, and then this is nothing at all. Two builds see fewer: an audit
    its sample of users, whole; the target `dev` the last days of arrivals, of all users. `loaded_at` is left out where rows have
    none: profiles are then all there. -#}
{% macro where_in_scope(user_id, loaded_at=none) -%}
  {%- set bounds = [] -%}
  {%- if var('audit_percent') > 0 -%}
    {%- do bounds.append('mod(' ~ stable_number(user_id) ~ ', 100) < ' ~ var('audit_percent')) -%}
  {%- endif -%}
  {%- if target.name == 'dev' and loaded_at -%}
    {%- do bounds.append(loaded_at ~ ' >= ' ~ moment(last_moment_of_dev(), plus_days=-var('dev_history_days'))) -%}
  {%- endif -%}
  {%- if bounds -%} where {{ bounds | join(' and ') }} {%- endif -%}
{%- endmacro %}

{#- The window's end where one is given, else the hour of the command: by hand `until_at` lies in the year 2100. -#}
{% macro last_moment_of_dev() -%}
  {%- set hour = run_started_at.replace(minute=0, second=0, microsecond=0, tzinfo=none) -%}
  {{ return([modules.datetime.datetime.fromisoformat(var('until_at')), hour] | min | string) }}
{%- endmacro %}
