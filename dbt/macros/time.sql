{#- Times are UTC: TIMESTAMP on BigQuery, TIMESTAMP without zone on DuckDB. Every bound is a literal, so that partitions prune:
    no max() over a table, no current_timestamp(). -#}

{% macro moment(iso, plus_days=0, plus_minutes=0) -%}
  {%- set base = modules.datetime.datetime.fromisoformat(iso) -%}
  {#- 1970 is "since ever": stepping back from it would only make odd dates -#}
  {%- set moved = base + modules.datetime.timedelta(days=plus_days, minutes=plus_minutes) -%}
  timestamp '{{ moved.isoformat(sep=" ") }}{{ "+00" if target.type == "bigquery" }}'
{%- endmacro %}

{% macro day(iso, plus_days=0) -%}
  date '{{ (modules.datetime.datetime.fromisoformat(iso) + modules.datetime.timedelta(days=plus_days)).date().isoformat() }}'
{%- endmacro %}

{#- The first day whose partitions this run may read or write: the latest arrival allowed, plus two days so that a whole session
    (a day at most) that a late event touches lies inside. -#}
{% macro first_day_in_reach(plus_days=0) -%}
  {{ day(var('from_at'), -(var('max_lateness_days') + 2) + plus_days) }}
{%- endmacro %}

{% macro add_minutes(moment, minutes) -%} {{ return(adapter.dispatch('add_minutes')(moment, minutes)) }} {%- endmacro %}
{% macro duckdb__add_minutes(moment, minutes) -%} ({{ moment }} + interval ({{ minutes }}) minute) {%- endmacro %}
{% macro bigquery__add_minutes(moment, minutes) -%} timestamp_add({{ moment }}, interval {{ minutes }} minute) {%- endmacro %}

{% macro add_days(moment, days) -%} {{ add_minutes(moment, days * 24 * 60) }} {%- endmacro %}

{% macro microseconds(moment) -%} {{ return(adapter.dispatch('microseconds')(moment)) }} {%- endmacro %}
{% macro duckdb__microseconds(moment) -%} epoch_us({{ moment }}) {%- endmacro %}
{% macro bigquery__microseconds(moment) -%} unix_micros({{ moment }}) {%- endmacro %}

{% macro microseconds_between(start, stop) -%} ({{ microseconds(stop) }} - {{ microseconds(start) }}) {%- endmacro %}

{#- Integers are summed and divided last: sums of doubles depend on their order, and a rebuild must equal the increments. -#}
{% macro seconds(microseconds) -%} (({{ microseconds }}) / 1000000.0) {%- endmacro %}

{#- The gap as a count of microseconds, for comparing exactly. -#}
{% macro gap_microseconds() -%} {{ var('session_gap_minutes') * 60 * 1000000 }} {%- endmacro %}
