{#- A derived value stays within its range of config/features.yml whatever it is made of: a few odd events must neither stop a run
    nor stand out a thousandfold. tests/dbt/test_exit_features.py compares the bounds with that file. -#}

{#- The value, or null outside of the bounds and for NaN. -#}
{% macro within(value, lowest, highest) -%}
  case when {{ value }} >= {{ lowest }} and {{ value }} <= {{ highest }} then {{ value }} end
{%- endmacro %}

{#- The value, or the nearer bound. Null stays null. -#}
{% macro clipped(value, lowest, highest) -%}
  case when {{ value }} is not null then greatest(least({{ value }}, {{ highest }}), {{ lowest }}) end
{%- endmacro %}

{#- A rate a minute, clipped. The time counts one second at least: two events 5 microseconds apart are no pace of millions.
    Null where no time has passed. -#}
{% macro per_minute(amount, duration_microseconds, lowest, highest) -%}
  {%- set counted = 'case when ' ~ duration_microseconds ~ ' > 0 then greatest(' ~ duration_microseconds ~ ', 1000000) end' -%}
  {{ clipped(amount ~ ' / (' ~ seconds(counted) ~ ' / 60)', lowest, highest) }}
{%- endmacro %}

{#- Whether so many odd ones of so many are no accident: a fifth, and at least 50. scoring/faults.py has the same two numbers. -#}
{% macro is_the_whole(count_odd, count_all) -%}
  ({{ count_odd }} >= 50 and {{ count_odd }} * 5 >= {{ count_all }})
{%- endmacro %}

{#- True of a row of raw.app_events that cannot be used. stg_app__events leaves it out, and fct_arrivals counts it. -#}
{% macro event_is_odd() -%} event_id is null or user_id is null or occurred_at is null {%- endmacro %}
