"""The one shape of every error a person or a program meets: a stable code and one sentence."""

from __future__ import annotations

from typing import Any, Final

OK: Final = 0
FAILED: Final = 1  # what was asked for was tried and did not succeed
ERROR: Final = 2  # bad input, or it could not be tried
CHANGES: Final = 10  # plan, drift: there is something to do


class Problem(Exception):
    """Something that ends a command. `code` is stable; `extra` is for programs."""

    def __init__(self, code: str, detail: str, *, exit_code: int = ERROR, **extra: Any) -> None:
        super().__init__(detail)
        self.code, self.detail, self.exit_code, self.extra = code, detail, exit_code, extra

    def document(self) -> dict[str, Any]:
        """The problem as plain data; `problem` of the wire and of `--output json`."""
        return {"code": self.code, "detail": self.detail, "exit_code": self.exit_code, **self.extra}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Problem:
        rest = dict(document)
        return cls(rest.pop("code"), rest.pop("detail"), exit_code=rest.pop("exit_code", ERROR), **rest)
