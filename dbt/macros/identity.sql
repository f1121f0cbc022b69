{#- Ids made from content, so that the same rows get the same id in any run and on any warehouse. -#}

{% macro md5_hex(text) -%} {{ return(adapter.dispatch('md5_hex')(text)) }} {%- endmacro %}
{% macro duckdb__md5_hex(text) -%} md5({{ text }}) {%- endmacro %}
{% macro bigquery__md5_hex(text) -%} to_hex(md5({{ text }})) {%- endmacro %}

{#- A user and a moment: a session by its start, an exit by its last event. -#}
{% macro moment_id(user_id, moment) -%}
  {{ md5_hex("concat(" ~ user_id ~ ", '|', cast(" ~ microseconds(moment) ~ " as string))") }}
{%- endmacro %}

{#- Texts as one, each with its length before it: two lists give the same text only if they are equal. -#}
{% macro joined(texts) -%}
  concat({% for text in texts %}cast(length({{ text }}) as string), ':', {{ text }}{{ ", '|', " if not loop.last }}{% endfor %})
{%- endmacro %}

{#- A copy of an event: who, which, what, when, and when it was loaded. -#}
{% macro arrival_id() -%}
  {{ md5_hex(joined([
      'user_id', 'event_id', "coalesce(event_name, '')", 'cast(' ~ microseconds('occurred_at') ~ ' as string)',
      'cast(' ~ microseconds('loaded_at') ~ ' as string)',
  ])) }}
{%- endmacro %}

{#- 60 bits of md5 as a whole number: what the experiment's arms are drawn from, equal on both warehouses. -#}
{% macro stable_number(text) -%} cast(concat('0x', substr({{ md5_hex(text) }}, 1, 15)) as bigint) {%- endmacro %}

{#- As ops.erasures keeps it of a user: 64 hex digits in lower case on both warehouses. -#}
{% macro sha256_hex(text) -%} {{ return(adapter.dispatch('sha256_hex')(text)) }} {%- endmacro %}
{% macro duckdb__sha256_hex(text) -%} sha256({{ text }}) {%- endmacro %}
{% macro bigquery__sha256_hex(text) -%} to_hex(sha256({{ text }})) {%- endmacro %}
