{#- Data test of a key: no null and no duplicate. One query replaces `unique` and `not_null`, because on BigQuery each query
    bills at least 10 MB and each test adds seconds to every run. The key may be an expression over several columns. -#}
{% test is_key(model, column_name) %}
  select
    key_value,
    count(*) as count_rows
  from (select {{ column_name }} as key_value from {{ model }}) as keys
  group by key_value
  having key_value is null or count(*) > 1
{% endtest %}
