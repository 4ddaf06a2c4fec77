"""Every command line, in the order in which `holdfast --help` shows them."""

from __future__ import annotations

from typing import Final

from api.cli.lines import agents, documents, fleet, keys, people, server
from api.cli.lines.line import Command

COMMANDS: Final[tuple[Command, ...]] = (
    *documents.COMMANDS,
    *fleet.COMMANDS,
    *server.COMMANDS,
    *people.COMMANDS,
    *keys.COMMANDS,
    *agents.COMMANDS,
)

GROUPS: Final = {
    "user": "people and their grants",
    "token": "tokens of machines",
    "agent": "agents on hosts that nothing can reach",
    "authority": "the authority that issues the certificates of agents",
    "audit": "the audit log",
    "release": "releases",
    "artifact": "artifacts of process targets",
    "keys": "signing keys",
    "signer": "the signer of agents' tasks",
    "sticker": "stickers",
    "source": "sources of documents",
    "notices": "telling people elsewhere",
    "job": "jobs",
}
