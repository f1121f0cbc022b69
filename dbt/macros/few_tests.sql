{#- Data tests that stop a run only for what is wrong with the whole. A few odd rows are set aside or do no harm, and are counted in
    fct_arrivals. The number that dbt reports is that of the odd rows. -#}

{#- `breaks` is true of an odd row. -#}
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

{#- A row that repeats another's key is odd. -#}
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
