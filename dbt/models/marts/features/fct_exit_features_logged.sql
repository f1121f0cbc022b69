{{ config(
    materialized='incremental',
    incremental_strategy='merge',
    unique_key='exit_id',
    partition_by=by_day('exited_on'),
    require_partition_filter=filter_required(),
    cluster_by=by_user(),
    incremental_predicates=["DBT_INTERNAL_DEST.exited_on >= " ~ first_day_in_reach()],
    on_schema_change='append_new_columns',
) }}

-- The first row of an exit is final: the next model must learn from the features that the model saw.
select features.*
from {{ ref('fct_exit_features') }} as features
inner join {{ ref('int_exits_this_run') }} as exits on features.exit_id = exits.exit_id
where
    features.exited_on >= {{ first_day_in_reach() }}
{% if is_incremental() %}
    and not exists (
        select 1 from {{ this }} as logged
        where
            logged.exit_id = features.exit_id
            and logged.exited_on >= {{ first_day_in_reach() }}
    )
{% endif %}
{{ in_order_of('exited_on') }}
