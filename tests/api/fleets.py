"""Fleets of real processes and a real daemon, built without starting an interpreter for each step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Final

from api.cli.main import main
from examples.demo.fleet import Fleet
from tests.reconciler.stores import lay

BUILDING: Final = {("artifact", "pack"), ("keys", "init")}  # have tests of their own


class BuiltHere(Fleet):
    """The demo's fleet; what builds it runs in the test's process, and everything else as people run it."""

    def holdfast(self, *words: str, check: bool = True) -> str:
        if words[:2] not in BUILDING:
            return super().holdfast(*words, check=check)
        with redirect_stdout(StringIO()) as said:
            assert main(self.command(*words)[3:]) == 0
        return said.getvalue()

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = 180) -> float:
        """Longer than a person would: the machine may be loaded."""
        return super().wait(what, ready, seconds)


def built(home: Path, targets: int) -> Fleet:
    """So many targets of one environment."""
    made = BuiltHere(home, environments={"staging": targets})
    made.build()
    lay(made.state / "holdfast.db")
    return made
