{#- Which of the app's rows the staging views show: those of all users but the erased. Two builds see fewer: an audit its sample
    of users, whole; the target `dev` the last days of arrivals, of all users. `loaded_at` is left out where rows have none:
    profiles are then all there. `odd` is true of rows that say nothing of anybody, and are left out. -#}
{% macro where_in_scope(user_id, loaded_at=none, odd=none) -%}
  {%- set bounds = [not_erased(user_id)] -%}
  {%- if odd -%} {%- do bounds.append('not (' ~ odd ~ ')') -%} {%- endif -%}
  {%- if var('audit_percent') > 0 -%}
    {%- do bounds.append('mod(' ~ stable_number(user_id) ~ ', 100) < ' ~ var('audit_percent')) -%}
  {%- endif -%}
  {%- if target.name == 'dev' and loaded_at -%}
    {%- do bounds.append(loaded_at ~ ' >= ' ~ moment(last_moment_of_dev(), plus_days=-var('dev_history_days'))) -%}
  {%- endif -%}
  where {{ bounds | join(' and ') }}
{%- endmacro %}

{#- Rows of users with a tombstone are nobody's: the user may be in a table that is not ours, or arrive once more. Not correlated:
    while nobody is erased DuckDB then makes no hash at all, where `not exists` makes one of every row. A row without a user
    stays, for the data tests to find. -#}
{% macro not_erased(user_id) -%}
  coalesce({{ sha256_hex(user_id) }}, '') not in (
    select erasures.user_hash from {{ source('ops', 'erasures') }} as erasures
    where erasures.step = 'tombstone'
  )
{%- endmacro %}

{#- The window's end where one is given, else the hour of the command: by hand `until_at` lies in the year 2100. -#}
{% macro last_moment_of_dev() -%}
  {%- set hour = run_started_at.replace(minute=0, second=0, microsecond=0, tzinfo=none) -%}
  {{ return([modules.datetime.datetime.fromisoformat(var('until_at')), hour] | min | string) }}
{%- endmacro %}
