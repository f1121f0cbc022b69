{#- Ids derived from content, so that the same row gets the same id in every run and on both warehouses. -#}

{% macro md5_hex(text) -%} {{ return(adapter.dispatch('md5_hex')(text)) }} {%- endmacro %}
{% macro duckdb__md5_hex(text) -%} md5({{ text }}) {%- endmacro %}
{% macro bigquery__md5_hex(text) -%} to_hex(md5({{ text }})) {%- endmacro %}

{#- The id of a user and a time: a session by its start, an exit by its last event. -#}
{% macro moment_id(user_id, moment) -%}
  {{ md5_hex("concat(" ~ user_id ~ ", '|', cast(" ~ microseconds(moment) ~ " as string))") }}
{%- endmacro %}

{#- Texts concatenated, each after its length, so that two lists give the same text only if they are equal. -#}
{% macro joined(texts) -%}
  concat({% for text in texts %}cast(length({{ text }}) as string), ':', {{ text }}{{ ", '|', " if not loop.last }}{% endfor %})
{%- endmacro %}

{#- The id of one copy of an event: user, event_id, event_name, occurred_at and loaded_at. -#}
{% macro arrival_id() -%}
  {{ md5_hex(joined([
      'user_id', 'event_id', "coalesce(event_name, '')", 'cast(' ~ microseconds('occurred_at') ~ ' as string)',
      'cast(' ~ microseconds('loaded_at') ~ ' as string)',
  ])) }}
{%- endmacro %}

{#- 60 bits of the md5 as an integer, the same on both warehouses. The experiment's arms are drawn from it. -#}
{% macro stable_number(text) -%} cast(concat('0x', substr({{ md5_hex(text) }}, 1, 15)) as bigint) {%- endmacro %}

{#- The user hash of ops.erasures: 64 hex digits in lower case on both warehouses. -#}
{% macro sha256_hex(text) -%} {{ return(adapter.dispatch('sha256_hex')(text)) }} {%- endmacro %}
{% macro duckdb__sha256_hex(text) -%} sha256({{ text }}) {%- endmacro %}
{% macro bigquery__sha256_hex(text) -%} to_hex(sha256({{ text }})) {%- endmacro %}
