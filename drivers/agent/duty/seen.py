"""What an agent has seen, as text: equal texts mean that nothing has changed, whenever they were seen. When that was is
for whoever reads it to say, by a clock of its own.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from drivers.agent import protocol
from stickers.observation import Observation, Standing

SOME_TIME: Final = datetime.fromtimestamp(0, UTC)


def text(observation: Observation) -> str:
    standings = tuple(_timeless(standing) for standing in observation.standings)
    return protocol.body(replace(observation, at=SOME_TIME, standings=standings))


def _timeless(standing: Standing) -> Standing:
    workload = standing.workload
    if workload is None:
        return standing
    return replace(standing, workload=replace(workload, health=replace(workload.health, checked_at=None)))
