"""Free text of one user: none reaches the CRM or stays in a model, before or after the user is erased."""

from __future__ import annotations

import struct
from pathlib import Path

import duckdb

from jobs.erasure.erase import erase
from jobs.hourly.run import hourly
from scoring.registry.bundles import load_bundle
from scoring.registry.folder import CHAMPION, connect
from tests.support.builders.incomes import incomes, train_on_incomes
from tests.support.environment import HISTORY_UNTIL, World, at

MARK = b"@example.org"
HOURS = 2


def bytes_of(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def found(files: dict[str, bytes], text: str) -> list[str]:
    """Return the files that hold a text, in UTF-8 or UTF-16."""
    return [
        name for name, content in files.items() if any(text.encode(code) in content for code in ("utf-8", "utf-16-le"))
    ]


def test_free_text_of_the_app_never_reaches_the_crm(world: World) -> None:
    """Each user sends their own device, event and origin, with characters that would break a template or a list."""
    with duckdb.connect(str(world.folder / "winback.duckdb")) as connection:
        own = "'; {{ x }} <b>' || user_id || '@example.org'"
        connection.execute(f"update raw.users set referral_source = {own}")
        connection.execute(
            f"""update raw.app_events set device_type = {own},
            event_name = case when event_name = 'step_opened' then {own} else event_name end
            where loaded_at >= $since""",
            {"since": HISTORY_UNTIL.replace(tzinfo=None)},
        )
    with world.context(now=lambda: at(HOURS)) as context:
        result = hourly(context, at(HOURS))
        held = world.crm.store.profiles()
        user = min(user for user, profile in held.items() if profile.get("churn_reasons"))
        before = bytes_of(world.folder / "models") | {
            path.name: path.read_bytes() for path in world.folder.glob("crm.sqlite*")
        }
        erase(context, user)

    assert result.sync.delivered > 10
    reasons = [profile["churn_reasons"] for profile in held.values() if profile.get("churn_reasons")]
    assert reasons
    assert all(isinstance(phrases, list) and len(phrases) <= 3 for phrases in reasons)
    after = bytes_of(world.folder / "models") | {
        path.name: path.read_bytes() for path in world.folder.glob("crm.sqlite*")
    }
    assert [name for name, content in (before | after).items() if MARK in content] == []


def test_the_registry_holds_no_value_of_one_user(tmp_path: Path) -> None:
    """The files of a bundle in MLflow's artifacts, its database, and the page of the card."""
    bundle = train_on_incomes(tmp_path / "models")
    registry = connect(f"sqlite:///{tmp_path / 'registry.db'}", bundle.parent)
    registry.register(load_bundle(bundle.parent, bundle.name))
    registry.point(CHAMPION, bundle.name)
    files = bytes_of(tmp_path)
    assert len([name for name in files if name.endswith("contract.json")]) == 2
    rows = incomes()
    for place in range(0, rows.num_rows, 97):
        row = rows.slice(place, 1).to_pylist()[0]
        texts = {row["user_id"], row["exit_id"], repr(row["income"]), str(row["exited_at"])[:23]}
        texts |= {row[name] for name in ("device_type", "referral_source") if row[name] not in ("phone", "search")}
        assert {text: names for text in texts if (names := found(files, text))} == {}
        packed = [struct.pack("<d", row["income"]), struct.pack("<f", row["income"])]
        assert [
            name for name, content in files.items() if not name.endswith(".png") for p in packed if p in content
        ] == []
