{#- fct_exit_features_logged holds the features as the model saw them at scoring. A full refresh would overwrite them with
    today's values, and they cannot be rebuilt. The backfill creates the log and passes allow_full_refresh. The target `dev` has no
    log to lose. -#}
{% macro refuse_full_refresh() -%}
  {%- if execute and flags.FULL_REFRESH and not var('allow_full_refresh') and target.name != 'dev' -%}
    {{ exceptions.raise_compiler_error(
        "--full-refresh is refused, because it would overwrite fct_exit_features_logged, which holds what the model saw and cannot "
        ~ "be rebuilt; to lose that knowingly, add --vars 'allow_full_refresh: true'."
    ) }}
  {%- endif -%}
{%- endmacro %}
