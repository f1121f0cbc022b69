{% macro double() -%} {{ 'float64' if target.type == 'bigquery' else 'double' }} {%- endmacro %}

{% macro to_double(expression) -%} cast({{ expression }} as {{ double() }}) {%- endmacro %}
{% macro to_bigint(expression) -%} cast({{ expression }} as bigint) {%- endmacro %}
{% macro to_string(expression) -%} cast({{ expression }} as string) {%- endmacro %}
