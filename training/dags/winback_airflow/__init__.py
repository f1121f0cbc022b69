"""What the DAGs of winback share. It knows Airflow and `config/airflow.yml`, and nothing of winback but its command line."""
