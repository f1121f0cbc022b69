"""What may go wrong, named by what the caller must do.

WinbackError
├── RetryableError   exit 1: nothing is half done; run the same command again
│   └── RunInProgressError   another process holds the data; no failure where both are hourly runs (exit 0)
├── ContractError    exit 2: configuration, input or contract is wrong; a retry fails the same way
│   └── WatermarkAheadError  the watermark lies beyond now; winback repair-watermark puts it back
├── CircuitOpenError exit 3: stopped on purpose before doing harm; a person should look
├── ReconciliationError       exit 3: an audit found rows that are not what the raw events say; a person should look
└── NothingToPromoteError exit 4: no challenger, or one that is no better; all is well, and a scheduler may go on

"""


class WinbackError(Exception):
    """Base of all errors a person is meant to read; its text says what, where, and what to do next."""

    exit_code = 1


class RetryableError(WinbackError):
    """A passing fault. The next run continues from the tables."""


class ContractError(WinbackError):
    """Settings, input files, the feature contract or the bundle are not what they must be."""

    exit_code = 2


class WatermarkAheadError(ContractError):
    """The watermark lies beyond now: this machine's clock is behind, or a run's was ahead."""


class CircuitOpenError(WinbackError):
    """Too much was refused to go on."""

    exit_code = 3


class ReconciliationError(WinbackError):
    """The tables are not what the raw events say."""

    exit_code = 3


class NothingToPromoteError(WinbackError):
    """The champion stays: there is no challenger, or the verdict is that it is no better."""

    exit_code = 4


class RunInProgressError(RetryableError):
    """Another process holds the data. `is_hourly`: it is known to be an hourly run, which does the work of this one."""

    def __init__(self, message: str, *, is_hourly: bool = False) -> None:
        """Take the sentence for a person, and what is known of the holder."""
        super().__init__(message)
        self.is_hourly = is_hourly
