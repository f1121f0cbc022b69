{#- Times are UTC: TIMESTAMP on BigQuery, TIMESTAMP without zone on DuckDB. Every bound is a literal, so that partitions prune:
    no max() over a table, no current_timestamp(). -#}

{#- So many days later. Stepping back ends in year 1, the first that both warehouses know. -#}
{% macro moved(iso, days) -%}
  {%- set start = modules.datetime.datetime.fromisoformat(iso) -%}
  {{ return(start + modules.datetime.timedelta(days=[days, 1 - start.toordinal()] | max)) }}
{%- endmacro %}

{% macro moment(iso, plus_days=0) -%}
  timestamp '{{ moved(iso, plus_days).isoformat(sep=" ") }}{{ "+00" if target.type == "bigquery" }}'
{%- endmacro %}

{% macro day(iso, plus_days=0) -%} date '{{ moved(iso, plus_days).date().isoformat() }}' {%- endmacro %}

{#- The first day whose partitions this run may read or write: the latest arrival allowed, plus two days so that a whole session
    (a day at most) that a late event touches lies inside. -#}
{% macro days_in_reach() -%} {{ return(var('max_lateness_days') + 2) }} {%- endmacro %}

{% macro first_day_in_reach(plus_days=0) -%} {{ day(var('from_at'), plus_days - days_in_reach()) }} {%- endmacro %}

{#- The midnight that day begins with, for a table partitioned by a timestamp. -#}
{% macro first_moment_in_reach() -%}
  {{ moment(moved(var('from_at'), -days_in_reach()).date().isoformat()) }}
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
