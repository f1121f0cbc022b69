{#- The epochs that count: all except those whose clock was ahead of a later repair. The repair holds their decisions.
    warehouse/ledger.py has the same rule in Python. -#}
{% macro runs_that_count() -%}
    select run_id
    from (
        select
            run_id,
            case when kind = 'repair' then committed_at else window_until end as clock_at,
            min(case when kind = 'repair' then committed_at end)
                over (order by epoch rows between 1 following and unbounded following) as repaired_at
        from {{ source('ops', 'runs') }}
    ) as runs
    where repaired_at is null or clock_at <= repaired_at
{%- endmacro %}
