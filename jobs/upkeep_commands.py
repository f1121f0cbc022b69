"""Commands that put a warehouse in order."""

from __future__ import annotations

import click

from jobs import screens
from jobs.answering import answer_command, as_json, in_house


@click.command("repair-watermark")
@click.option("--dry-run", is_flag=True, help="Show what would be repaired, and change nothing.")
@as_json
def repair_watermark(dry_run: bool, is_json: bool) -> None:
    """Put the watermark back after a run whose clock was ahead; its decisions stay made, and nothing is sent.

    \b
    winback repair-watermark --dry-run
    winback repair-watermark
    Check this machine's clock first. Exit codes: 0 done or nothing to repair, 1 failed and safe to retry, 2 no history.
    """
    from jobs.repair import repair_watermark as run  # noqa: PLC0415

    answer_command(is_json, in_house(lambda house: run(house, dry_run=dry_run)), screens.repaired)


ALL = (repair_watermark,)
