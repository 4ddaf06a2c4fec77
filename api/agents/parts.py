"""What the house has for its agents: who issues their certificates, who is on the roll, and who signs their tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from api.agents.authority import Authority
from api.agents.enrolled import Enrolled
from api.problem import Problem
from stickers.names import TargetId

Hold = Callable[[TargetId, timedelta], Awaitable[str]]


async def holds_nothing(target: TargetId, span: timedelta) -> str:
    """Stands where no agent is spoken with."""
    raise Problem("NO_AGENTS", f"this process speaks with no agents, so nobody can be told to hold {target}")


@dataclass(frozen=True, kw_only=True)
class Agents:
    """`url` is where hosts join; empty where nobody listens for them. `hold` asks the agent of a target to keep it as
    it is for so long without a server, and answers who was asked."""

    authority: Authority
    roll: Enrolled
    signers: Callable[[], Sequence[str]]
    url: str = ""
    hold: Hold = holds_nothing


def signers_in(file: Path) -> Callable[[], Sequence[str]]:
    """The public keys of the signer, in hex, one to a line, the one that signs first; read anew whenever asked."""

    def read() -> Sequence[str]:
        try:
            lines = file.read_text().split()
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            raise Problem("NO_SIGNER", f"{file}: {getattr(error, 'strerror', None) or 'no text'}") from None
        for line in lines:
            if len(line) != 64 or not set(line) <= set("0123456789abcdef"):
                raise Problem("NO_SIGNER", f"{file} holds {line[:20]!r}; expected public keys of 64 hexadecimal digits")
        return tuple(lines)

    return read
