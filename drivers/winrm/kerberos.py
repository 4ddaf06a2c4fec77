"""What Kerberos says when it does not let us in, in our words. Knows its errors by their numbers alone, so that nothing
has to be installed for it."""

from __future__ import annotations

import re
from typing import Final

from drivers.errors import DriverError, Unreachable
from drivers.winrm.connection import WinRm
from drivers.winrm.errors import NotAdmitted

_TABLE: Final = -1765328384  # where the numbers of Kerberos' own errors begin
_NO_REALM: Final = (154, 156)  # its name leads to no KDC; or none of them answers
_MEANING: Final = {
    6: "the realm does not know the user",
    7: "the realm does not know the host by this name",
    18: "the account is locked, disabled or expired",
    23: "the password has expired",
    24: "the password is wrong",
    31: "the password is wrong",
    32: "the ticket has expired",
    37: "the clocks of realm and daemon differ by too much",
}
_MINOR: Final = re.compile(r"Minor \(\d+\): (.+)", re.DOTALL)


def translated(winrm: WinRm, error: Exception) -> DriverError | None:
    """What it means; None when it is not an error of Kerberos."""
    number = _number(error)
    if number is None:
        return None
    said = " ".join(_words(error).split())[:200]
    if number in _NO_REALM:
        return Unreachable(f"{winrm}: no KDC of its realm answers: {said}")
    meant = _MEANING.get(number)
    return NotAdmitted(f"{winrm}: not admitted with auth: kerberos: {said if meant is None else f'{meant}: {said}'}")


def _number(error: Exception) -> int | None:
    """Counted from the table's beginning, as RFC 4120 and MIT's headers do; 0 for what has another table."""
    native = getattr(error, "base_error", None) or error
    code = getattr(native, "err_code", None)  # of krb5
    if code is None:
        code = getattr(native, "min_code", None)  # of gssapi, where it has no sign
    if not isinstance(code, int):
        return None
    code = code - (1 << 32) if code >= 1 << 31 else code
    return max(0, code - _TABLE) if code < _TABLE + 256 else 0


def _words(error: Exception) -> str:
    native = getattr(error, "base_error", None) or error
    said = str(native)
    if (minor := _MINOR.search(said)) is not None:
        return minor[1]
    return re.sub(r"\s-\d+$", "", said)
