"""Commands that build training examples, and train, evaluate, promote and roll back models."""

from __future__ import annotations

from datetime import datetime

import click

from jobs.cli.contexts import with_context
from jobs.cli.runner import DateTimeParam, as_json, run_command
from jobs.models.dataset import examples as build_dataset
from jobs.models.evaluate import evaluate as evaluate_challenger
from jobs.models.lifecycle import promote as promote_model
from jobs.models.lifecycle import rollback as rollback_model
from jobs.models.train import train as train_challenger
from jobs.output import models as model_screens

until_option = click.option(
    "--until", type=DateTimeParam(), help="Use labels known by this time; default: the watermark."
)


@click.command()
@until_option
@as_json
def dataset(until: datetime | None, is_json: bool) -> None:
    """Build and test the training examples, and show a summary; trains nothing.

    \b
    winback dataset
    winback dataset --until 2026-06-01 --json
    Exit codes: 0 built, 1 failed and safe to retry, 2 configuration, contract, or no example yet.
    """
    run_command(is_json, with_context(lambda context: build_dataset(context, until)), model_screens.built)


@click.command()
@until_option
@as_json
def train(until: datetime | None, is_json: bool) -> None:
    """Fit a model on matured examples, evaluate it, write its bundle and card, and register it as the challenger.

    \b
    winback train
    """
    run_command(is_json, with_context(lambda context: train_challenger(context, until)), model_screens.trained)


@click.command()
@until_option
@as_json
def evaluate(until: datetime | None, is_json: bool) -> None:
    """Compare the challenger with the champion on exits that neither was trained on, and store the verdict with the challenger.

    \b
    winback evaluate
    winback evaluate --json
    Exit codes: 0 compared, whatever the verdict, 1 failed and safe to retry, 2 configuration or contract.
    """
    run_command(is_json, with_context(lambda context: evaluate_challenger(context, until)), model_screens.judged)


@click.command()
@click.argument("version", required=False)
@click.option("--force", is_flag=True, help="Promote without a verdict, or against it.")
@as_json
def promote(version: str | None, force: bool, is_json: bool) -> None:
    """Make the challenger, or a version, the champion if its verdict is that it is better; the next run uses it.

    \b
    winback promote
    winback promote 20260601T100000Z-1a2b3c4d --force
    Exit codes: 0 done, 1 the registry did not respond, 2 configuration or contract, 4 no challenger, or it is not better.
    """
    run_command(is_json, lambda settings, _: promote_model(settings, version, force=force), model_screens.promoted)


@click.command()
@as_json
def rollback(is_json: bool) -> None:
    """Make the previous champion the champion again; the next run uses it.

    \b
    winback rollback
    """
    run_command(is_json, lambda settings, _: rollback_model(settings), model_screens.promoted)
