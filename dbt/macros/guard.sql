{#- fct_exit_features_logged holds what the model saw when it scored. A full refresh would put what is known today in its place,
    and nothing brings the log back. The backfill, which begins the log, allows itself; on `dev` there is none to lose. -#}
{% macro refuse_full_refresh() -%}
  {%- if execute and flags.FULL_REFRESH and not var('allow_full_refresh') and target.name != 'dev' -%}
    {{ exceptions.raise_compiler_error(
        "--full-refresh is refused, because it would overwrite fct_exit_features_logged, which holds what the model saw and cannot "
        ~ "be rebuilt; to lose that knowingly, add --vars 'allow_full_refresh: true'."
    ) }}
  {%- endif -%}
{%- endmacro %}
