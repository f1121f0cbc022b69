{#- dbt-duckdb refuses a dict in partition_by, so partitions and clusters exist on BigQuery only. -#}
{% macro by_day(column) -%}
  {{ return({'field': column, 'data_type': 'date', 'granularity': 'day'} if target.type == 'bigquery' else none) }}
{%- endmacro %}

{#- BigQuery then refuses a query without a filter on the partition column. -#}
{% macro filter_required() -%} {{ return(true if target.type == 'bigquery' else none) }} {%- endmacro %}

{% macro by_user() -%} {{ return(['user_id'] if target.type == 'bigquery' else none) }} {%- endmacro %}

{#- The first build writes its rows in order of time. DuckDB stores the minimum and maximum of every 122,880 rows, so that an
    hourly run reads only the last days, however long history is. On BigQuery, partitions have this effect. -#}
{% macro in_order_of(column) -%}
  {%- if target.type == 'duckdb' and not is_incremental() -%} order by {{ column }} {%- endif -%}
{%- endmacro %}
