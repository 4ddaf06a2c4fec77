"""A clause of the contract as a check: a name for the report, the sentence it holds a driver to, what it needs."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import anyio

from drivers.conformance.bench import Bench, Power
from drivers.conformance.stage import Stage

Check = Callable[[Stage], Awaitable[None]]


class Broken(AssertionError):
    """A driver that does not keep a clause: which, and what was found instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    name: str
    sentence: str
    needs: frozenset[Power]
    body: Check

    async def check(self, bench: Bench) -> None:
        """Raises `Broken` where the driver does not keep it, in a time that the bench says is enough."""
        stage = Stage(bench)
        try:
            with anyio.fail_after(bench.patience.total_seconds()):
                await self.body(stage)
        except AssertionError as found:
            raise Broken(f"{self.name}: {self.sentence}\n  found: {_short(str(found))}") from found
        except TimeoutError as late:
            raise Broken(f"{self.name}: not done within {bench.patience.total_seconds():g} s") from late
        except Exception as error:  # whatever comes out where none of ours was expected is the finding
            raise Broken(f"{self.name}: {self.sentence}\n  raised: {type(error).__name__}: {error}") from error
        finally:
            with anyio.CancelScope(shield=True):
                await stage.aclose()

    def __str__(self) -> str:
        return self.name


def _short(text: str) -> str:
    """Envelopes are long, and nobody reads them."""
    return re.sub(r"(envelope='[^']{16})[^']+", r"\1…", text)


def clause(*needs: Power) -> Callable[[Check], Clause]:
    """Make a function whose docstring is the sentence a clause named like the function."""

    def make(body: Check) -> Clause:
        sentence = " ".join((body.__doc__ or "").split())
        return Clause(name=body.__name__, sentence=sentence, needs=frozenset(needs), body=body)

    return make


def named(name: str, sentence: str, body: Check, needs: Iterable[Power] = ()) -> Clause:
    """A clause that is one of a series."""
    return Clause(name=name, sentence=sentence, needs=frozenset(needs), body=body)


def must(kept: object, found: str) -> None:
    if not kept:
        raise AssertionError(found)
