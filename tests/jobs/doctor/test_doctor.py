"""`winback doctor` on a DuckDB file: it finds what would stop a run, names the remedy, and changes nothing."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from core.settings import Settings
from jobs.doctor.finding import Finding
from jobs.doctor.local import features
from jobs.doctor.run import doctor
from scoring.features_file import load_contract
from tests.support.builders.doctor import named, troubles
from tests.support.environment import API_KEY, CONFIG, HISTORY_UNTIL, World, settings_in
from tests.support.migrate.builders import migrated


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and "crm.sqlite" not in path.name]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def examined(world: World, **changes: Any) -> tuple[Finding, ...]:
    reached: dict[str, Any] = {"crm_url": world.crm.url, "crm_api_key": SecretStr(API_KEY)}
    return doctor(settings_in(world.folder, **(reached | changes)), HISTORY_UNTIL).findings


def test_nothing_is_wrong_with_a_file_with_history_and_a_model(world: World) -> None:
    assert troubles(examined(world)) == {}


def test_not_a_byte_is_changed(world: World) -> None:
    before = contents(world.folder)
    examined(world)
    assert contents(world.folder) == before


def test_a_file_that_is_absent_is_not_made(tmp_path: Path) -> None:
    found = doctor(settings_in(tmp_path)).findings

    # The local CRM is not running either.
    assert troubles(found) == {"model": "failed", "warehouse": "failed", "CRM": "warning"}
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_duckdb_file_is_told(world: World) -> None:
    (world.folder / "winback.duckdb").write_text("nothing of the kind")
    assert troubles(examined(world)) == {"warehouse": "failed"}


def test_a_file_that_a_run_holds_is_no_failure(world: World) -> None:
    code = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, str(world.folder / "winback.duckdb")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        found = examined(world)
        holder.communicate()

    assert troubles(found) == {"warehouse": "warning"}
    assert f"process {holder.pid}" in named(found, "warehouse").says


def test_a_table_of_an_earlier_version_is_told_with_the_command_that_mends_it(world: World) -> None:
    world.query("alter table ops.reports drop column stopped_because")
    found = named(examined(world), "tables")
    assert found.says == "ops.reports has no column stopped_because"

    assert found.do[-1] == "winback migrate"
    assert migrated(world.folder, world.parsed).steps == {"columns": "add ops.reports.stopped_because"}

    assert troubles(examined(world)) == {}


def test_a_renamed_file_is_told(world: World) -> None:
    (world.folder / "winback.duckdb").rename(world.folder / "other.duckdb")
    found = examined(world, warehouse=f"duckdb:///{world.folder / 'other.duckdb'}")
    assert named(found, "views").state == "failed"


def test_an_altered_model_is_told(world: World) -> None:
    model = next((world.folder / "models").glob("*/model.json"))
    model.write_text(model.read_text() + " ")

    found = examined(world)

    assert troubles(found) == {"model": "failed"}
    assert "model.json is missing or was altered" in named(found, "model").says


def test_every_wrong_file_is_told_and_the_rest_is_looked_at(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    for path in CONFIG.glob("*.yml"):
        (folder / path.name).write_text(path.read_text())
    (folder / "funnel.yml").write_text("completion_events: []")
    (folder / "vouchers.yml").unlink()

    found = examined(world, config=folder)

    assert troubles(found) == {"funnel.yml": "failed", "vouchers.yml": "failed"}
    assert named(found, "history").state == "ok"


def test_a_model_of_another_features_file_is_a_warning() -> None:
    now = load_contract(CONFIG / "features.yml")
    before = now.model_copy(update={"features": now.features[1:]})

    found = features(before, now)

    assert (found.state, found.do[1]) == ("warning", "winback train")
    assert now.features[0].name in found.says


def test_a_crm_elsewhere_with_the_local_key_is_told(world: World) -> None:
    local = Settings.model_fields["crm_api_key"].default
    found = named(examined(world, crm_url="https://rest.fra-01.braze.eu", crm_api_key=local), "CRM")
    assert (found.state, "WINBACK_CRM_API_KEY" in found.says) == ("failed", True)


def test_a_local_crm_that_is_not_running_is_told_with_its_address(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
    found = named(examined(world, crm_url=f"http://{place}"), "CRM")
    assert (found.state, found.says) == ("warning", f"nothing listens at {place} (connection refused)")
    assert found.do == ("Correct WINBACK_CRM_URL, or start the local CRM:", "winback local-crm")
