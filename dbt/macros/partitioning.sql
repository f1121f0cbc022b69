{#- dbt-duckdb refuses a dict in partition_by, so partitions and clusters exist on BigQuery only. -#}
{% macro by_day(column) -%}
  {{ return({'field': column, 'data_type': 'date', 'granularity': 'day'} if target.type == 'bigquery' else none) }}
{%- endmacro %}

{#- BigQuery then refuses a query that does not say from which day on it reads. -#}
{% macro filter_required() -%} {{ return(true if target.type == 'bigquery' else none) }} {%- endmacro %}

{% macro by_user() -%} {{ return(['user_id'] if target.type == 'bigquery' else none) }} {%- endmacro %}

{#- The first build writes its rows in the order of time. DuckDB keeps the least and the greatest value of each 122,880 rows, so an
    hour then reads the last days alone, however long history is. On BigQuery partitions do that. -#}
{% macro in_order_of(column) -%}
  {%- if target.type == 'duckdb' and not is_incremental() -%} order by {{ column }} {%- endif -%}
{%- endmacro %}
