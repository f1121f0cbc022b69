"""Meaning of a command's exit code to Airflow: done, skipped, retried, or failed at once."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

# `winback promote`: there is a verdict, and it does not say better; or there is no challenger.
NOTHING_TO_PROMOTE = 4
# Configuration or contract, and what a person should look at: another try ends the same way.
_FINAL = {2: "Configuration or contract", 3: "Somebody should look"}


def leave(code: int | None, skip_on: tuple[int, ...] = ()) -> None:
    """Return when the command did its work.

    Raises: AirflowSkipException for a code in `skip_on`; AirflowFailException, which Airflow never tries again, for 2 and 3;
    AirflowException, which it does, for any other and for a command that has no code because it was killed.
    """
    if code == 0:
        return
    if code in skip_on:
        raise AirflowSkipException(f"Exit code {code}: nothing to do.")
    if code in _FINAL:
        raise AirflowFailException(f"Exit code {code}. {_FINAL[code]}: the log says what. Not tried again.")
    raise AirflowException("The command was killed." if code is None else f"Exit code {code}.")
