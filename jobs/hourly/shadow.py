"""Does the challenger score this run's exits beside the champion? If it can; a run never fails for it."""

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
    """What became of the challenger's scores in a run. `problem`: why there are none; without a challenger there need be none."""

    model_version: str | None
    scored: int = 0
    problem: str | None = None


def shadow_run(context: JobContext, run: Run, champion: str) -> ShadowResult | None:
    """Log the challenger's scores of the exits that `champion` has just scored; None where the settings do not ask for it.

    Whatever goes wrong is told once and is in the answer: an absent or altered bundle, a broken contract, one score for all.
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
    except Exception as error:  # noqa: BLE001 - nothing of the challenger may stop the run; the text may quote users' data
        problem = f"It failed with {type(error).__name__}."
    context.reporter.warn("The challenger did not score this run", model_version=version, problem=problem)
    return ShadowResult(version, 0, problem)


def discard_shadow(context: JobContext, run: Run) -> None:
    """Remove what was staged by a run that will not commit."""
    if context.settings.shadow:
        context.warehouse.discard(SHADOW_SCORES, run_id=run.run_id, scored_at=run.decided_at)
