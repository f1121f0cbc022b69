"""Shadow scoring: the challenger scores the exits of a run too. A failure here never stops the run."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import WinbackError
from jobs.context import JobContext
from jobs.models.lifecycle import open_registry
from scoring.batch import Run
from scoring.model import Model
from scoring.registry.folder import CHALLENGER
from scoring.shadow import shadow
from warehouse.tables import SHADOW_SCORES


@dataclass(frozen=True)
class ShadowResult:
    """Result of shadow scoring. `problem` is the reason why a challenger has no scores; without a challenger it is None."""

    model_version: str | None
    scored: int = 0
    problem: str | None = None


def shadow_run(context: JobContext, run: Run, champion: str) -> ShadowResult | None:
    """Log the challenger's scores of the exits that `champion` has just scored; returns None if the setting is off.

    A problem is logged once and is in the result: a missing or altered bundle, a broken contract, the same score for all exits.
    """
    if not context.settings.shadow:
        return None
    version = None
    try:
        registry = open_registry(context.settings)
        version = registry.resolve(CHALLENGER)
        if version is None or version == champion:
            return ShadowResult(None)
        model = Model(registry.fetch(version, context.settings.models), threads=context.settings.threads)
        context.reporter.step("Scoring with the challenger", model_version=version)
        return ShadowResult(version, shadow(context.warehouse, model, run))
    except WinbackError as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001 - no error of the challenger may stop the run; its text may quote users' data
        problem = f"It failed with {type(error).__name__}."
    context.reporter.warn("The challenger did not score this run", model_version=version, problem=problem)
    return ShadowResult(version, 0, problem)


def discard_shadow(context: JobContext, run: Run) -> None:
    """Remove the rows staged by a run that will not commit."""
    if context.settings.shadow:
        context.warehouse.discard(SHADOW_SCORES, run_id=run.run_id, scored_at=run.decided_at)
