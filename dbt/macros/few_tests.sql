{#- Data tests that stop a run only if a large share of the rows is wrong. A few odd rows are set aside or harmless, and
    fct_arrivals counts them. The number that dbt reports is the count of odd rows. -#}

{#- `breaks` is an SQL condition that is true for an odd row. -#}
{% test odd_rows_are_few(model, breaks) %}
  {{ config(fail_calc="coalesce(max(count_odd), 0)") }}
  select count_odd
  from (
    select
      count(*) as count_rows,
      sum(case when {{ breaks }} then 1 else 0 end) as count_odd
    from {{ model }}
  ) as counted
  where {{ is_the_whole('count_odd', 'count_rows') }}
{% endtest %}

{#- A row is odd if it repeats the key of another row. -#}
{% test repeats_are_few(model, column_name) %}
  {{ config(fail_calc="coalesce(max(count_odd), 0)") }}
  select count_odd
  from (
    select
      count({{ column_name }}) as count_rows,
      count({{ column_name }}) - count(distinct {{ column_name }}) as count_odd
    from {{ model }}
  ) as counted
  where {{ is_the_whole('count_odd', 'count_rows') }}
{% endtest %}
