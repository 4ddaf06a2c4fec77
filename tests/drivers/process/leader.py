"""A leader under fence 1 that is halted on its way, and goes on when somebody continues it.

python -m tests.drivers.process.leader ROOT IMAGES PORT STEP

It brings version 2.0 after 1.0, halts before the named step, or before it holds anything where that is `-`, and says
how it ended: the result, or the code of the error.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio

from drivers.contract import Progress
from drivers.errors import DriverError
from tests.drivers.process.yard import Yard


def halt() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


async def main(*arguments: str) -> None:
    root, images, port, step = arguments
    yard = Yard(Path(root), Path(images), port=int(port))
    change = await yard.change(yard.placement("2.0"), yard.placement("1.0"))

    def report(progress: Progress) -> None:
        if progress.step.value == step:
            halt()

    if step == "-":
        halt()
    try:
        receipt = await yard.driver.apply(yard.action(change, fence=1), report=report)
        print(receipt.outcomes[0].result.value)
    except DriverError as error:
        print(error.code)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
