"""Shared code of winback's DAGs. It uses Airflow, `config/airflow.yml` and winback's command line, but no winback module."""
