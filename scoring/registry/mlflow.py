"""Model registry in MLflow: embedded in a SQLite file, or on a tracking server.

It uses one registered model; each bundle is one of its versions. The version's run holds the bundle's files as artifacts. Its
tags hold the bundle's version and the sha256 of its manifest, which verifies every file. No other module imports mlflow.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from core.errors import ContractError
from scoring.registry import bundles
from scoring.registry.bundle_files import Manifest, checked, read_object
from scoring.registry.bundles import Bundle
from scoring.registry.folder import RegistryDamagedError, RegistryUnreachableError, checked_name, whole

MODEL = "winback-churn"
# Telemetry is always off, whatever the environment says: mlflow contacts only the configured registry.
_FORCED = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet"}
# An unreachable registry costs seconds: at most three attempts of 5 s. mlflow's defaults take minutes. Environment variables win.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    # For an upload or download of a few megabytes.
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
}
_BUNDLE, _MANIFEST = "bundle_version", "manifest_sha256"
_ATTACHED = "attached"
_SQLITE = b"SQLite format 3\x00"  # the header of every database: https://www.sqlite.org/fileformat.html


class MlflowRegistry:
    """The registry at a URI. mlflow is loaded at its first use."""

    def __init__(self, uri: str, models: Path) -> None:
        self._is_embedded = uri.startswith("sqlite:///")
        self._path = Path(uri.removeprefix("sqlite:///")).absolute()
        self._uri = f"sqlite:///{self._path}" if self._is_embedded else uri
        self._models = models
        self._found: dict[str, Any] = {}

    def resolve(self, alias: str) -> str | None:
        """Request the alias itself, because a search may return versions without their aliases (mlflow#16734)."""
        if self._is_unborn:
            return None
        with self._asking():
            try:
                found = self._client.get_model_version_by_alias(MODEL, alias)
            except self._mlflow.MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE") or self._has(alias):
                    raise
                return None
        version = found.tags.get(_BUNDLE)
        if not version or not found.tags.get(_MANIFEST):
            raise ContractError(
                f"The registry's {alias} is version {found.version} of {MODEL}, which winback did not register. "
                "Promote a version that it registered: winback promote VERSION"
            )
        self._found[checked_name(version)] = found
        return str(version)

    def fetch(self, version: str, models: Path) -> Bundle:
        """Return the bundle from disk if it is the registered one. Else download it, verify it and put it in place."""
        found = self._find(checked_name(version))
        if found is None:
            return bundles.load_bundle(models, version)  # trained before the registry existed, or unknown
        manifest = models / version / "manifest.json"
        is_the_one = manifest.is_file() and _sha256(manifest) == found.tags[_MANIFEST]
        on_disk = whole(models, version) if is_the_one else None
        try:
            return on_disk or self._download(found, version, models)
        except OSError as error:
            raise ContractError(
                f"Model bundle {version} cannot be written to WINBACK_MODELS: {error.strerror}."
            ) from None

    def register(self, bundle: Bundle) -> None:
        """Create the version as the last step, with its tags, so that an existing version is always complete."""
        digest = _sha256(bundle.folder / "manifest.json")
        found = self._find(checked_name(bundle.version))
        if found is not None:
            if found.tags[_MANIFEST] != digest:
                raise ContractError(
                    f"The registry holds another bundle as {bundle.version}. Train again, because versions are never replaced."
                )
            return
        with self._asking():
            client = self._client
            try:
                client.create_registered_model(MODEL)
            except self._mlflow.MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            run = client.create_run(self._experiment(), run_name=bundle.version)
            client.log_artifacts(run.info.run_id, str(bundle.folder))
            client.set_terminated(run.info.run_id)
            self._found[bundle.version] = client.create_model_version(
                MODEL,
                run.info.artifact_uri,
                run_id=run.info.run_id,
                tags={_BUNDLE: bundle.version, _MANIFEST: digest},
            )

    def point(self, alias: str, version: str | None) -> None:
        """Set the alias, or delete it."""
        found = self._known(version) if version is not None else None
        if found is None and self._is_unborn:
            return
        with self._asking():
            if found is not None:
                self._client.set_registered_model_alias(MODEL, alias, found.version)
            elif self._has(alias):
                self._client.delete_registered_model_alias(MODEL, alias)

    def attach(self, version: str, name: str, text: str) -> None:
        """Store it as an artifact of the version's run, beside the bundle's files."""
        found = self._known(version)
        with self._asking():
            self._client.log_text(found.run_id, text, f"{_ATTACHED}/{checked_name(name)}")

    def attached(self, version: str, name: str) -> str | None:
        """Check first whether it exists, because a failed download does not give its reason."""
        found, path = self._find(checked_name(version)), f"{_ATTACHED}/{checked_name(name)}"
        if found is None:
            return None
        with self._asking(), tempfile.TemporaryDirectory() as folder:
            if path not in [file.path for file in self._client.list_artifacts(found.run_id, _ATTACHED)]:
                return None
            file = Path(self._client.download_artifacts(found.run_id, path, folder))
            return file.read_text(encoding="utf-8", errors="replace")

    @property
    def _is_unborn(self) -> bool:
        """Whether the database file does not exist yet: a request would create it."""
        return self._is_embedded and not self._path.is_file()

    @cached_property
    def _mlflow(self) -> Any:
        return _import_mlflow(self._is_embedded)

    @cached_property
    def _client(self) -> Any:
        return self._mlflow.MlflowClient(self._uri, self._uri)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Raises: RegistryUnreachableError with only the code, because mlflow's text quotes addresses and the server's reply."""
        self._refuse_damaged()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            failures = [self._mlflow.MlflowException, OSError]
            if self._is_embedded:
                failures.append(importlib.import_module("sqlalchemy.exc").SQLAlchemyError)
            try:
                yield
            except tuple(failures) as error:
                code = getattr(error, "error_code", None) or type(error).__name__
                where = f"in {self._path.name}" if self._is_embedded else "at WINBACK_REGISTRY"
                raise RegistryUnreachableError(f"The model registry {where} gave no usable reply ({code}).") from None

    def _refuse_damaged(self) -> None:
        """Raises: RegistryDamagedError when the embedded registry's file is not SQLite; an empty file becomes a database."""
        if not self._is_embedded or not self._path.exists():
            return
        try:
            with self._path.open("rb") as stream:
                start = stream.read(len(_SQLITE))
        except OSError:
            start = b"?"
        if start and start != _SQLITE:
            raise RegistryDamagedError(
                f"The model registry in {self._path.name} gave no usable reply (the file is not a database). "
                "Restore it, or set WINBACK_REGISTRY to another registry."
            )

    def _has(self, alias: str) -> bool:
        try:
            return alias in self._client.get_registered_model(MODEL).aliases
        except self._mlflow.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _find(self, version: str) -> Any:
        """Return the model version of a bundle, the first if two processes registered it at once; None if there is none."""
        if version not in self._found and not self._is_unborn:
            with self._asking():
                where = f"name = '{MODEL}' and tag.{_BUNDLE} = '{version}'"
                found = self._client.search_model_versions(where, order_by=["version_number ASC"], max_results=1)
            if found:
                self._found[version] = found[0]
        return self._found.get(version)

    def _known(self, version: str) -> Any:
        found = self._find(checked_name(version))
        if found is None:
            raise ContractError(f"The registry has no model version {version}. Register it: winback promote {version}")
        return found

    def _experiment(self) -> str:
        """Return the experiment of the runs. A server chooses where artifacts lie; the embedded one uses the bundles' folder."""
        found = self._client.get_experiment_by_name(MODEL)
        if found is not None:
            return str(found.experiment_id)
        place = str((self._models / "artifacts").absolute()) if self._is_embedded else None
        return str(self._client.create_experiment(MODEL, artifact_location=place))

    def _download(self, found: Any, version: str, models: Path) -> Bundle:
        models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=models) as name:
            beside = Path(name)
            folder = beside / version
            folder.mkdir()
            manifest = self._get(found, "manifest.json", folder)
            if _sha256(manifest) != found.tags[_MANIFEST]:
                raise _altered(version, "manifest.json")
            for file in checked(Manifest, read_object(manifest, version), version, "manifest.json").sha256:
                self._get(found, file, folder)
            try:
                bundle = bundles.load_bundle(beside, version)
            except ContractError as error:
                raise ContractError(f"The registry's copy cannot be used. {error}") from None
            place = models / version
            try:
                if place.exists():
                    place.rename(beside / "altered")
                os.replace(folder, place)
            except OSError:
                faster = whole(models, version)  # another run has fetched it
                if faster is None:
                    raise
                return faster
            return replace(bundle, folder=place)

    def _get(self, found: Any, name: str, folder: Path) -> Path:
        with self._asking():
            if name not in [file.path for file in self._client.list_artifacts(found.run_id)]:
                raise _altered(found.tags[_BUNDLE], name)
            return Path(self._client.download_artifacts(found.run_id, name, str(folder)))


def _import_mlflow(is_embedded: bool) -> Any:
    os.environ.update(_FORCED)
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    # Without a handler, Python prints warnings to stderr, including addresses.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if is_embedded:
                importlib.import_module("sqlalchemy")
            return importlib.import_module("mlflow")
    except ModuleNotFoundError as error:
        raise ContractError(
            f"The embedded model registry needs {error.name}, which the scoring image leaves out. "
            "Set WINBACK_REGISTRY to a tracking server, or to none."
        ) from None


def _altered(version: str, name: str) -> ContractError:
    return ContractError(
        f"Model bundle {version}: {name} is missing in the registry or was altered there (sha256 differs). "
        "Restore it, or promote another version: winback promote VERSION"
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
