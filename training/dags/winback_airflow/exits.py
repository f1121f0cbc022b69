"""Maps a command's exit code to Airflow: done, skipped, retried, or failed for good."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

# `winback promote`: the verdict is not "better", or a challenger does not exist.
NOTHING_TO_PROMOTE = 4
# Configuration or contract errors, and findings for a person: a retry would end the same way.
_FINAL = {2: "Configuration or contract", 3: "A person should look"}


def leave(code: int | None, skip_on: tuple[int, ...] = ()) -> None:
    """Return normally when the command succeeded.

    Raises: AirflowSkipException for a code in `skip_on`. AirflowFailException, which Airflow never retries, for 2 and 3.
    AirflowException, which it retries, for any other code and for a command without one because it was killed.
    """
    if code == 0:
        return
    if code in skip_on:
        raise AirflowSkipException(f"Exit code {code}: nothing to do.")
    if code in _FINAL:
        raise AirflowFailException(f"Exit code {code}. {_FINAL[code]}: see the log. Not retried.")
    raise AirflowException("The command was killed." if code is None else f"Exit code {code}.")
