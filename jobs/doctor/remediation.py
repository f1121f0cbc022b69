"""Commands and SQL that grant, create and change what a run needs in BigQuery; fill in SERVICE_ACCOUNT."""

from __future__ import annotations

from dataclasses import dataclass

from warehouse.bigquery.connection import Connection
from warehouse.bigquery.loads import TYPES
from warehouse.tables import Table


@dataclass(frozen=True)
class BigQueryCommands(Connection):
    """Commands and SQL for the BigQuery of the settings. An empty location means that of the raw dataset."""

    def dataset(self, layer: str) -> str:
        """Return the dataset of a layer."""
        return f"{self.prefix}_{layer}"

    def table(self, layer: str, name: str) -> str:
        """Return the quoted name of a table in SQL."""
        return f"`{self.project}`.`{self.dataset(layer)}`.`{name}`"

    def grant(self, role: str) -> str:
        """Return the command that grants a role on the project."""
        return (
            f"gcloud projects add-iam-policy-binding {self.project} "
            f"--member=serviceAccount:SERVICE_ACCOUNT --role=roles/bigquery.{role}"
        )

    def grant_on(self, layer: str, location: str) -> str:
        """Return the command that grants a layer's role on its dataset only."""
        role = "dataViewer" if layer == "raw" else "dataEditor"
        return (
            f"bq --project_id={self.project} --location={location or 'LOCATION'} query --use_legacy_sql=false "
            f"'GRANT `roles/bigquery.{role}` ON SCHEMA `{self.project}`.`{self.dataset(layer)}` "
            f'TO "serviceAccount:SERVICE_ACCOUNT"\''
        )

    def create(self, layer: str, location: str) -> str:
        """Return the command that creates a layer's dataset."""
        return f"bq --location={location or 'LOCATION'} mk --dataset {self.project}:{self.dataset(layer)}"

    def make(self, table: Table, *, filled_from: str = "") -> str:
        """Return the statement that creates a table, partitioned and clustered so that it is cheap to read."""
        columns = ", ".join(f"{c.name} {TYPES[c.type]}{' NOT NULL' if c.required else ''}" for c in table.columns)
        name = self.table(table.layer, table.name + ("_by_day" if filled_from else ""))
        kept = f" PARTITION BY DATE({table.partition_on}) CLUSTER BY user_id" if table.partition_on else ""
        options = " OPTIONS (require_partition_filter = TRUE)" if table.partition_on else ""
        body = f" AS SELECT * FROM {filled_from}" if filled_from else ""
        return f"CREATE TABLE {name}{'' if filled_from else f' ({columns})'}{kept}{options}{body};"
