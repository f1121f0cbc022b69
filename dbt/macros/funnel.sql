{#- The rules of config/funnel.yml as SQL. -#}

{#- A text as an escaped string literal in the warehouse's SQL. -#}
{% macro text_literal(text) -%} {{ return(adapter.dispatch('text_literal')(text)) }} {%- endmacro %}
{% macro duckdb__text_literal(text) -%} {{ return("'" ~ text | replace("'", "''") ~ "'") }} {%- endmacro %}
{% macro bigquery__text_literal(text) -%}
  {{ return("'" ~ text | replace('\\', '\\\\') | replace("'", "\\'") ~ "'") }}
{%- endmacro %}

{% macro quoted(names) -%}
  {%- set literals = [] -%}
  {%- for name in names -%} {%- do literals.append(text_literal(name)) -%} {%- endfor -%}
  {%- if names -%} ({{ literals | join(', ') }}) {%- else -%} (cast(null as string)) {%- endif -%}
{%- endmacro %}

{% macro outcome_of(event_name) -%}
  case
    when {{ event_name }} in {{ quoted(var('completion_events')) }} then 'finished'
    when {{ event_name }} in {{ quoted(var('abandonment_events')) }} then 'gave_up'
    when {{ event_name }} in {{ quoted(var('closing_events')) }} then 'closed'
  end
{%- endmacro %}

{#- 0 for the first step; null for a step that is not in the funnel. -#}
{% macro step_index(step) -%}
  {%- if var('steps') -%}
  case {{ step }} {% for name in var('steps') %} when {{ text_literal(name) }} then {{ loop.index0 }} {% endfor %} end
  {%- else -%} cast(null as bigint) {%- endif -%}
{%- endmacro %}

{% macro kinds() -%} {{ return(['navigation', 'input', 'upload', 'help', 'error']) }} {%- endmacro %}

{% macro is_kind(event_name, kind) -%} {{ event_name }} in {{ quoted(var('event_kinds').get(kind, [])) }} {%- endmacro %}

{#- True if the event arrived later than the incremental tables can process. Rows read by the backfill are never too late. -#}
{% macro is_too_late(occurred_at, loaded_at) -%}
  ({{ loaded_at }} >= {{ moment(var('history_until')) }} and {{ loaded_at }} > {{ add_days(occurred_at, var('max_lateness_days')) }})
{%- endmacro %}
