"""Installation of lock files: it gives exactly the locked versions, even if newer releases of all packages exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "requirements" / "install.py"
LOCKS = sorted(path.stem for path in (ROOT / "requirements").glob("*.txt") if path.stem != "uv")
# Only the largest lock file is tested each time; the nightly workflow tests all (INSTALLS=all).
NOW = LOCKS if os.environ.get("INSTALLS") == "all" else ["dev"]
RELEASE = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([0-9][^ ;]*)(?: ; [^\\]+?)? \\$", re.MULTILINE)
EXTRAS = re.compile(r"^([A-Za-z0-9._-]+)\[([^\]]*)\]==", re.MULTILINE)


def releases(lock: str) -> dict[str, set[str]]:
    """Return the locked versions by package. A package has several if they differ by Python version."""
    found: dict[str, set[str]] = {}
    for name, version in RELEASE.findall((ROOT / f"requirements/{lock}.txt").read_text()):
        found.setdefault(name.lower(), set()).add(version)
    return found


def next_patch(version: str) -> str:
    """Return the next patch release, which the `~=` and `<` constraints of other packages permit."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    assert release
    *head, last = release[0].split(".")
    return ".".join([*head, str(int(last) + 1)])


def fabricate(folder: Path, name: str, version: str, extras: list[str]) -> None:
    """Write an empty wheel."""
    stem = f"{re.sub(r'[-_.]+', '_', name).lower()}-{version}"
    extra = "".join(f"Provides-Extra: {e}\n" for e in extras)
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{extra}"
        )
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index folder with two newer releases of every locked package."""
    folder = tmp_path_factory.mktemp("newer")
    for lock in NOW:
        text = (ROOT / f"requirements/{lock}.txt").read_text()
        extras = {name: re.split(r",\s*", words) for name, words in EXTRAS.findall(text)}
        for name, versions in releases(lock).items():
            for later in {*map(next_patch, versions), "9999.0"}:
                fabricate(folder, name, later, extras.get(name, []))
    return folder


@pytest.mark.parametrize("lock", NOW)
def test_a_lock_installs_what_it_says_while_newer_releases_exist(lock: str, newer: Path, tmp_path: Path) -> None:
    environment = os.environ | {"UV_FIND_LINKS": str(newer)}
    into = tmp_path / "venv"

    command = [sys.executable, str(INSTALL), "--into", str(into), lock]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    list_words = ["-m", "uv", "pip", "list", "--python", str(into), "--format", "freeze"]
    listed = subprocess.run([sys.executable, *list_words], capture_output=True, text=True, check=True).stdout
    installed = dict(line.split("==") for line in listed.split())
    locked = releases(lock)
    assert {n: version for n, version in installed.items() if version not in locked.get(n.lower(), ())} == {}
    assert {"google-auth", "pytest"} & set(locked) <= set(installed)


def test_the_newer_releases_are_there_to_be_taken(newer: Path) -> None:
    """Otherwise the test above could not fail."""
    words = [
        "-m",
        "uv",
        "pip",
        "install",
        "--dry-run",
        "--upgrade",
        "--no-deps",
        "--no-index",
        "--find-links",
        str(newer),
    ]

    taken = subprocess.run(
        [sys.executable, *words, "google-auth[requests]~=2.0"], capture_output=True, text=True, check=True
    )

    assert f"google-auth=={next_patch(*releases('dev')['google-auth'])}" in taken.stderr.replace(" + ", "")


def test_every_lock_is_installed_in_one_way() -> None:
    """Only requirements/install.py calls pip. The exception is `make lock`, which installs its own uv."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    places = [name for name in tracked if re.search(r"Dockerfile$|Makefile$|\.ya?ml$|\.sh$|^\.ci/|\.md$", name)]

    found = [
        (name, line.strip())
        for name in places
        for line in (ROOT / name).read_text().splitlines()
        if re.search(r"pip3? install|pip\" install|require-hashes", line)
    ]

    assert [(name, line) for name, line in found if not line.startswith("@$(PYTHON) -m venv $(VENV) && ")] == []


def test_an_unknown_lock_is_refused_and_the_known_ones_are_named() -> None:
    command = [sys.executable, str(INSTALL), "no-such-lock"]

    answer = subprocess.run(command, capture_output=True, text=True, check=False)

    assert answer.returncode == 2
    assert f"requirements/no-such-lock.txt does not exist; choose one of: {', '.join(LOCKS)}" in answer.stderr


def test_python_versions_are_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["tests"]["strategy"]["matrix"]

    classified = [c.rsplit(" ", 1)[-1] for c in project["classifiers"] if "Python ::" in c]
    low, high = classified[0], classified[-1].split(".")
    assert matrix["python"] == classified
    assert project["requires-python"] == f">={low},<{high[0]}.{int(high[1]) + 1}"
    assert f"Python {', '.join(classified[:-1])} or {classified[-1]}" in (ROOT / "README.md").read_text()
    assert f"Python {', '.join(classified[:-1])} or {classified[-1]}" in (ROOT / "Makefile").read_text()
