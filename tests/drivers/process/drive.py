"""A reconciler to be killed: deploys one version after another until somebody ends it.

python -m tests.drivers.process.drive ROOT IMAGES PORT beside|in-place
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import anyio

from tests.drivers.process.yard import Yard


async def main(*arguments: str) -> None:
    root, images, port, how = arguments
    yard = Yard(Path(root), Path(images), port=int(port))
    versions = [yard.placement(f"{number}.0", floating=how == "beside") for number in (1, 2, 3)]
    for number, placement in enumerate(itertools.cycle(versions)):
        change = await yard.change(placement, versions[number % 3 - 1])
        await yard.persist(change, key=f"{os.getpid()}-{number}")
        print(number, flush=True)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
