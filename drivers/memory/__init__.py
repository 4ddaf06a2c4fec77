"""Targets in a dict that misbehave by script: for tests, simulations and dry runs.

`World` holds the targets and outlives every driver, as hosts do. `MemoryDriver` is the runtime on it. `Fault` and
`Chance` make targets unreachable, slow, hanging or full, and crash whoever acts; `scripts` decide how what runs
behaves; the methods of a `Host` are hands that change a target behind Holdfast's back.
"""

from drivers.memory.driver import MemoryConnection, MemoryDriver
from drivers.memory.faults import Chance, Crashed, Crossing, Fault, Trouble, When
from drivers.memory.hands import MemoryHands
from drivers.memory.world import Deed, Effect, Host, World

__all__ = [
    "Chance",
    "Crashed",
    "Crossing",
    "Deed",
    "Effect",
    "Fault",
    "Host",
    "MemoryConnection",
    "MemoryDriver",
    "MemoryHands",
    "Trouble",
    "When",
    "World",
]
