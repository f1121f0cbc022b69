{#- Times are UTC: TIMESTAMP on BigQuery, TIMESTAMP without zone on DuckDB. Every bound is a literal (no max() over a table, no
    current_timestamp()), so that the warehouse can skip partitions. -#}

{#- The time plus a number of days, which may be negative. The result is never before year 1, the first that both warehouses
    support. -#}
{% macro moved(iso, days) -%}
  {%- set start = modules.datetime.datetime.fromisoformat(iso) -%}
  {{ return(start + modules.datetime.timedelta(days=[days, 1 - start.toordinal()] | max)) }}
{%- endmacro %}

{% macro moment(iso, plus_days=0) -%}
  timestamp '{{ moved(iso, plus_days).isoformat(sep=" ") }}{{ "+00" if target.type == "bigquery" }}'
{%- endmacro %}

{% macro day(iso, plus_days=0) -%} date '{{ moved(iso, plus_days).date().isoformat() }}' {%- endmacro %}

{#- The maximum length of a session, in microseconds. int_sessions_this_run cuts longer ones. -#}
{% macro max_session_microseconds() -%} {{ var('max_session_hours') * 3600 * 1000000 }} {%- endmacro %}

{#- Maximum number of days between the start and the end of a session. -#}
{% macro days_of_a_session() -%} {{ return((var('max_session_hours') / 24) | round(0, 'ceil') | int) }} {%- endmacro %}

{#- Whole days before from_at whose partitions this run may read or write: the maximum lateness, plus the longest session and a
    gap on both sides of it. jobs/transform/funnel.py has the same sum. -#}
{% macro days_in_reach() -%}
  {%- set minutes = var('max_session_hours') * 60 + 2 * var('session_gap_minutes') -%}
  {{ return(var('max_lateness_days') + ((minutes / 1440) | round(0, 'ceil') | int)) }}
{%- endmacro %}

{#- The earliest start of a session that new events since `first_new_at` can change (docs/adr/0023-a-session-has-a-maximum.md). -#}
{% macro earliest_change(first_new_at) -%}
  {{ add_minutes(first_new_at, -(var('max_session_hours') * 60 + var('session_gap_minutes'))) }}
{%- endmacro %}

{#- A run that rebuilds from an earlier time may read the backfill's rows again. It takes only those within reach. Rows that
    arrived after the backfill are either within reach or too late. -#}
{% macro earliest_event() -%} {{ moment(var('from_at'), plus_days=-var('max_lateness_days')) }} {%- endmacro %}

{#- Start of the fixed UTC cell of `max_session_hours` that contains the time, in microseconds. Cells are counted from 1970. -#}
{% macro cell_start(microseconds) -%}
  ({{ microseconds }} - mod(
    mod({{ microseconds }}, {{ max_session_microseconds() }}) + {{ max_session_microseconds() }}, {{ max_session_microseconds() }}
  ))
{%- endmacro %}

{% macro first_day_in_reach(plus_days=0) -%} {{ day(var('from_at'), plus_days - days_in_reach()) }} {%- endmacro %}

{#- The midnight at which that day begins, for a table partitioned by a timestamp. -#}
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

{#- Sum integers and divide last: sums of doubles depend on their order, and a rebuild must equal the incremental result. -#}
{% macro seconds(microseconds) -%} (({{ microseconds }}) / 1000000.0) {%- endmacro %}

{#- The inactivity gap in microseconds, an integer so that comparisons are exact. -#}
{% macro gap_microseconds() -%} {{ var('session_gap_minutes') * 60 * 1000000 }} {%- endmacro %}
