"""Reference pages of the exit codes and of the reason codes, held to the sets that the code declares."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping

from core import errors
from core.errors import WinbackError
from docgen.markdown import code, page, table
from docgen.schemas import ROOT
from scoring.policy import ELIGIBILITY_REASONS

_EXITS: Mapping[int, tuple[str, str]] = {
    0: ("Done. Also: another hourly run is in progress, and `winback run` leaves the work to it.", "nothing"),
    1: ("Failed. Nothing is left half done.", "run the same command again, or wait for the next hour"),
    2: ("The configuration, an input file or a contract is wrong.", "fix it first: a retry fails the same way"),
    3: ("Stopped on purpose, before doing harm. A person should look.", "read the message and the runbook page"),
    4: ("`winback promote`: a challenger is missing, or it is not better.", "nothing: the champion stays"),
}
_OUTCOMES: Mapping[str, tuple[str, str]] = {
    "delivered": ("The CRM's reply confirms this row.", "It is sent again only when something changes."),
    "unchanged": (
        "There was nothing to send: only metadata fields differ, or a field that may not be cleared.",
        "Nothing.",
    ),
    "rejected": (
        "The CRM's reply refuses this row. Or winback does not send it: `unsendable`, below.",
        "It is a dead letter: not sent again until the desired state changes or a person asks for a retry.",
    ),
    "suppressed": ("The CRM must not receive this user now.", "Nothing is sent."),
    "deferred": ("The CRM did not confirm or refuse this row.", "It stays pending, and the next run sends it."),
}
_VOUCHER: Mapping[str, tuple[str, str]] = {
    "granted": ("A voucher may be offered until `voucher_valid_until`.", "offer it"),
    "finished": ("The user has finished.", "nothing about coming back; thank them if you like"),
    "gave_up": ("The user deleted what they had begun.", "leave them alone"),
    "closed": (
        "The journey ended for a reason that is not the user's, such as a rejection.",
        "leave them alone; support may want to know",
    ),
    "no_profile": (
        "The users table had no profile of the user at the time of the decision.",
        "send nothing; [find the cause](../runbook/users-without-a-profile.md)",
    ),
    "no_consent": ("The user gives no marketing consent, as of the last run.", "send nothing"),
    "probability_below_range": ("The user is likely to finish without a voucher.", "a friendly reminder is enough"),
    "probability_above_range": (
        "The user is unlikely to finish even with a voucher.",
        "do not spend a voucher; ask what went wrong",
    ),
    "cool_down": ("The user had a voucher recently (60 days).", "a reminder without a voucher"),
    "redeemed": ("The user used a voucher recently.", "nothing more"),
    "holdout": (
        "The user would have been considered, but is in the holdout.",
        "**send nothing**: you compare the campaign with these users",
    ),
    "budget_run": (
        "Other users used up the budget of this run.",
        "wait: the next time the user leaves, winback decides again",
    ),
    "budget_day": ("Other users used up the budget of the day.", "as above"),
    "expired": ("The voucher has ended.", "stop showing it"),
}
_SKIPPED: Mapping[str, str] = {
    "finished": "The user finished before the decision.",
    "gave_up": "The user gave up before the decision.",
    "closed": "The journey was closed before the decision.",
    "erased": "The user was erased.",
    "superseded": "The user has a later exit in the same run, and that one is scored.",
    "session_too_long": "The session is longer than `max_session_hours`.",
    "bad_data": "A row of the user breaks a rule: see `intermediate.int_users_set_aside`.",
}
_SUPPRESSED: Mapping[str, str] = {
    "erased": "The user has a tombstone, or the app marked the user as erased.",
    "no_consent": "The user withdrew consent after the audience was built.",
    "finished": "The user finished after the audience was built.",
    "gave_up": "The user gave up after the audience was built.",
    "closed": "The journey was closed after the audience was built.",
    "holdout": "`tell_holdout` is false, and the CRM holds a state of the user from before.",
}
_DEFERRED: Mapping[str, tuple[str, str]] = {
    "unavailable": ("No connection, a 5xx or no reply until the retry budget was used up.", "when the CRM is back"),
    "throttled": (
        "The CRM asked for a wait longer than the retry budget, or the daily limit is used up.",
        "see [Rows stay throttled](../runbook/throttled.md)",
    ),
    "deadline": ("The run's deadline passed.", "with the next run"),
    "stopped": ("The run was stopped by a signal, or ended early.", "with the next run"),
    "unconfirmed": ("The CRM replied, but not about this row.", "with the next run, which sends it again"),
    "unknown_reply": ("The destination does not understand the reply.", "if it stays: report it to the engineers"),
    "cancelled": ("Klaviyo cancelled the job.", "with the next run"),
    "collision": (
        "HubSpot replied about another user's contact. As a rejection: two users are one contact or record.",
        "when one of the two has another id: [HubSpot](../destinations/hubspot.md), "
        "[Salesforce](../destinations/salesforce.md)",
    ),
    "circuit_open": (
        "The circuit breaker stopped the sync.",
        "when a person has looked: [exit code 3](../runbook/exit-code-3.md)",
    ),
    "locked": (
        "The CRM could not take this row now. Also `unable_to_lock_row`, `query_timeout` and other codes of the CRM.",
        "with the next run",
    ),
}


def exit_codes_page() -> str:
    """Return the page of the exit codes.

    Raises: ValueError if an error of core/errors.py has an exit code that the page does not explain.
    """
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, WinbackError)]
    if unknown := {each.exit_code for each in classes} - set(_EXITS):
        raise ValueError(f"exit codes without a meaning: {unknown}")
    by_code = [
        (code(each.exit_code), code(each.__name__), (each.__doc__ or "").strip().splitlines()[0])
        for each in sorted(classes, key=lambda each: (each.exit_code, each.__name__))
    ]
    return page(
        "Exit codes",
        table(
            ("exit code", "means", "do"),
            [
                (f"[{number}](../runbook/exit-code-{number}.md)" if number else "0", means, do)
                for number, (means, do) in _EXITS.items()
            ],
        ),
        "Only `winback run` leaves with 0 when another process holds the data, and only if that process is an\n"
        'hourly run. Its last line on stderr names the other run, and `--json` prints `{"skipped": ...}`.\n'
        "Every other command leaves with 1 then.",
        "This is enough for a scheduler: alarm at once on 2 and 3, and on 1 when it comes three times in a row.",
        "## Errors in the code",
        table(("exit code", "class in `core/errors.py`", "means"), by_code),
    )


def skip_reasons() -> set[str]:
    """Return the codes that `fct_scoring_candidates` writes, and the one that scoring adds."""
    sql = (ROOT / "dbt" / "models" / "marts" / "features" / "fct_scoring_candidates.sql").read_text(encoding="utf-8")
    return {*re.findall(r"then '([a-z_]+)'", sql), "bad_data", "finished", "gave_up", "closed"}


def reason_codes_page() -> str:
    """Return the page of the reason codes.

    Raises: ValueError if a code has no meaning, or a meaning no code.
    """
    _check("voucher_reason", _VOUCHER, {*ELIGIBILITY_REASONS, "finished", "gave_up", "closed", "expired"})
    _check("skip_reason", _SKIPPED, skip_reasons())
    return page("Reason codes", *_reasons())


def _reasons() -> Iterator[str]:
    yield "Every decision and every row that is sent ends with a code. Codes are stable: alarms and segments may use them."
    yield "## voucher_reason"
    yield (
        "Why a user may or may not get a voucher. The field is in the CRM, and in `marts.crm_profiles`.\n"
        "winback checks the reasons in a fixed order, and the first that applies is the answer."
    )
    yield table(("code", "means", "what marketing does"), [(code(c), *words) for c, words in _VOUCHER.items()])
    yield ("A user who is scored again while a voucher is still valid keeps `granted` until the voucher ends.")
    yield "## skip_reason"
    yield "Why an exit was not scored. The code is in `ops.decisions`, and every run prints the counts."
    yield table(("code", "means"), [(code(c), words) for c, words in _SKIPPED.items()])
    yield "## Outcomes"
    yield (
        "Each row in which the desired and the acknowledged state differ ends in exactly one outcome.\n"
        "The counts of a run add up to the number of such rows."
    )
    yield table(("outcome", "means", "then"), [(code(c), *words) for c, words in _OUTCOMES.items()])
    yield "## Suppressed, by reason"
    yield table(("code", "means"), [(code(c), words) for c, words in _SUPPRESSED.items()])
    yield ("A user is not counted if the CRM does not hold them and nothing is to be sent.")
    yield "## Deferred, by reason"
    yield table(("code", "means", "passes"), [(code(c), *words) for c, words in _DEFERRED.items()])
    yield "## Rejected, by code"
    yield (
        "The code is the CRM's own, or `http_` and the status. winback adds one of its own: `unsendable`, for a score\n"
        "that is not a finite number or a time that no CRM can read. `winback dead-letters` counts the codes."
    )


def _check(what: str, meanings: Mapping[str, object], codes: set[str]) -> None:
    if set(meanings) != codes:
        raise ValueError(f"{what}: codes and meanings differ: {sorted(set(meanings) ^ codes)}")
