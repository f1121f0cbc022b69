{#- The data test of a key: a value in every row, and each once. One query in place of two, `unique` and `not_null`: on BigQuery each
    query costs 10 MB at least, and each test a share of the hour's seconds. The key may be an expression of several columns. -#}
{% test is_key(model, column_name) %}
  select
    key_value,
    count(*) as count_rows
  from (select {{ column_name }} as key_value from {{ model }}) as keys
  group by key_value
  having key_value is null or count(*) > 1
{% endtest %}
