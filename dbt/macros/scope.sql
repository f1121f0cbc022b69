{#- The filter of the staging views: rows of all users except erased ones. Two builds see fewer rows. An audit sees all rows of
    its sample of users. The target `dev` sees the last days of arrivals of all users. Omit `loaded_at` if the rows have none:
    `dev` then sees all of them. `odd` is a condition that is true for unusable rows, which are dropped. -#}
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

{#- Drops rows of users with a tombstone, who may still be in a table that winback does not own, or arrive again. The subquery is
    uncorrelated: if no user is erased, DuckDB computes no hash, whereas `not exists` would hash every row. A row without a user
    stays, so that the data tests find it. -#}
{% macro not_erased(user_id) -%}
  coalesce({{ sha256_hex(user_id) }}, '') not in (
    select erasures.user_hash from {{ source('ops', 'erasures') }} as erasures
    where erasures.step = 'tombstone'
  )
{%- endmacro %}

{#- The window's end if one is given, otherwise the hour in which the command started. By hand, `until_at` defaults to the year
    2100. -#}
{% macro last_moment_of_dev() -%}
  {%- set hour = run_started_at.replace(minute=0, second=0, microsecond=0, tzinfo=none) -%}
  {{ return([modules.datetime.datetime.fromisoformat(var('until_at')), hour] | min | string) }}
{%- endmacro %}
