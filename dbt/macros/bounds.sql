{#- Macros that keep a derived value within its range in config/features.yml, so that a few odd events neither stop a run nor
    produce extreme outliers. tests/dbt/test_exit_features.py compares the bounds with that file. -#}

{#- The value; null outside the bounds and for NaN. -#}
{% macro within(value, lowest, highest) -%}
  case when {{ value }} >= {{ lowest }} and {{ value }} <= {{ highest }} then {{ value }} end
{%- endmacro %}

{#- The value, clipped to the bounds. Null stays null. -#}
{% macro clipped(value, lowest, highest) -%}
  case when {{ value }} is not null then greatest(least({{ value }}, {{ highest }}), {{ lowest }}) end
{%- endmacro %}

{#- A rate per minute, clipped. The duration counts as at least one second, so that two events 5 microseconds apart do not give
    a rate of millions. Null if no time has passed. -#}
{% macro per_minute(amount, duration_microseconds, lowest, highest) -%}
  {%- set counted = 'case when ' ~ duration_microseconds ~ ' > 0 then greatest(' ~ duration_microseconds ~ ', 1000000) end' -%}
  {{ clipped(amount ~ ' / (' ~ seconds(counted) ~ ' / 60)', lowest, highest) }}
{%- endmacro %}

{#- True if the odd rows are too many to be an accident: a fifth of all, and at least 50. scoring/faults.py has the same two
    numbers. -#}
{% macro is_the_whole(count_odd, count_all) -%}
  ({{ count_odd }} >= 50 and {{ count_odd }} * 5 >= {{ count_all }})
{%- endmacro %}

{#- True for a row of raw.app_events that cannot be used. stg_app__events drops it, and fct_arrivals counts it. -#}
{% macro event_is_odd() -%} event_id is null or user_id is null or occurred_at is null {%- endmacro %}
