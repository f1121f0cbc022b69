"""Errors that people read, classified by what the caller must do next.

WinbackError
├── RetryableError   exit 1: nothing is left half done; run the same command again
│   └── RunInProgressError   another process holds the data; exit 0 if both are hourly runs
├── ContractError    exit 2: configuration, input or contract is wrong; a retry fails the same way
│   └── WatermarkAheadError  the watermark is later than now; winback repair-watermark puts it back
├── CircuitOpenError exit 3: stopped on purpose before doing harm; a person should look
├── ReconciliationError       exit 3: an audit found rows that differ from the raw events; a person should look
└── NothingToPromoteError exit 4: no challenger, or it is not better; not a failure, and a scheduler may go on

"""


class WinbackError(Exception):
    """Base of all errors meant for people. The text says what happened, where, and what to do next."""

    exit_code = 1


class RetryableError(WinbackError):
    """A transient fault. The next run continues from the tables."""


class ContractError(WinbackError):
    """The settings, an input file, the feature contract or the model bundle is not valid."""

    exit_code = 2


class WatermarkAheadError(ContractError):
    """The watermark is later than now: this machine's clock is behind, or the clock of an earlier run was ahead."""


class CircuitOpenError(WinbackError):
    """Too many users were rejected, or the audience collapsed, so the sync stopped."""

    exit_code = 3


class ReconciliationError(WinbackError):
    """The tables differ from what the raw events give."""

    exit_code = 3


class NothingToPromoteError(WinbackError):
    """The champion stays, because no challenger exists or it is not better."""

    exit_code = 4


class RunInProgressError(RetryableError):
    """Another process holds the data. `is_hourly`: it is an hourly run, which does the same work as this one."""

    def __init__(self, message: str, *, is_hourly: bool = False) -> None:
        """Store the message and whether the other process is an hourly run."""
        super().__init__(message)
        self.is_hourly = is_hourly
