"""What can go wrong at a target; drivers raise nothing else.

DriverError
  Retryable            the same action may be tried again
    Unreachable          the target, or something it needs (a registry), does not answer
    Busy                 another action holds the target
    OutcomeUnknown       it may or may not have happened: look before acting
  Terminal             trying again cannot help
    Refused              the target or its runtime will not do it
    InvalidAction        the action makes no sense for this driver
    NotAllowed           this installation does not do it, whatever it is done with
  Conflict             neither as wanted nor what the change replaces: nothing was touched, plan again
    StaleFence           somebody with a higher fence has acted here: the sender has lost its lease
"""

from __future__ import annotations

from typing import ClassVar


class DriverError(Exception):
    """One sentence for people, and a stable `code` for programs. Never carries a secret value."""

    code: ClassVar[str] = "DRIVER_ERROR"


class Retryable(DriverError):
    code = "RETRYABLE"


class Unreachable(Retryable):
    code = "UNREACHABLE"


class Busy(Retryable):
    code = "BUSY"


class OutcomeUnknown(Retryable):
    code = "OUTCOME_UNKNOWN"


class Terminal(DriverError):
    code = "TERMINAL"


class Refused(Terminal):
    code = "REFUSED"


class InvalidAction(Terminal):
    code = "INVALID_ACTION"


class NotAllowed(Terminal):
    code = "NOT_ALLOWED"


class Conflict(DriverError):
    code = "CONFLICT"


class StaleFence(Conflict):
    code = "STALE_FENCE"
