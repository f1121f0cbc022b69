"""Which commands and statements grant, create and change what a run needs in BigQuery? SERVICE_ACCOUNT is left to fill in."""

from __future__ import annotations

from dataclasses import dataclass

from warehouse.bigquery.connection import Connection
from warehouse.bigquery.loads import TYPES
from warehouse.tables import Table


@dataclass(frozen=True)
class BigQueryCommands(Connection):
    """What the settings say of BigQuery, as commands and SQL. An empty location is that of the raw dataset."""

    def dataset(self, layer: str) -> str:
        """The dataset of a layer."""
        return f"{self.prefix}_{layer}"

    def table(self, layer: str, name: str) -> str:
        """A table as SQL names it."""
        return f"`{self.project}`.`{self.dataset(layer)}`.`{name}`"

    def grant(self, role: str) -> str:
        """The command that grants a role on the project."""
        return (
            f"gcloud projects add-iam-policy-binding {self.project} "
            f"--member=serviceAccount:SERVICE_ACCOUNT --role=roles/bigquery.{role}"
        )

    def grant_on(self, layer: str, location: str) -> str:
        """The command that grants a layer's role on its dataset, and on no other."""
        role = "dataViewer" if layer == "raw" else "dataEditor"
        return (
            f"bq --project_id={self.project} --location={location or 'LOCATION'} query --use_legacy_sql=false "
            f"'GRANT `roles/bigquery.{role}` ON SCHEMA `{self.project}`.`{self.dataset(layer)}` "
            f'TO "serviceAccount:SERVICE_ACCOUNT"\''
        )

    def create(self, layer: str, location: str) -> str:
        """The command that creates a layer's dataset."""
        return f"bq --location={location or 'LOCATION'} mk --dataset {self.project}:{self.dataset(layer)}"

    def make(self, table: Table, *, filled_from: str = "") -> str:
        """The statement that makes a table of ours, or of the app, as cheap to read as it can be."""
        columns = ", ".join(f"{c.name} {TYPES[c.type]}{' NOT NULL' if c.required else ''}" for c in table.columns)
        name = self.table(table.layer, table.name + ("_by_day" if filled_from else ""))
        kept = f" PARTITION BY DATE({table.partition_on}) CLUSTER BY user_id" if table.partition_on else ""
        options = " OPTIONS (require_partition_filter = TRUE)" if table.partition_on else ""
        body = f" AS SELECT * FROM {filled_from}" if filled_from else ""
        return f"CREATE TABLE {name}{'' if filled_from else f' ({columns})'}{kept}{options}{body};"
