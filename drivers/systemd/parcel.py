"""The host's side as one file of Python, for hosts on which nothing of ours is installed.

Run as `python3 -I -S <file> session` it answers as `drivers.process.host` does; executed as a module, its `main` does.
The same sources give the same bytes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

DRIVERS: Final = Path(__file__).parents[1]
MODULES: Final = ("process.host", "systemd.unit", "systemd.host")  # each after those that it imports
OPEN: Final = '''\
"""Several modules in one, unfolded in memory. Written by holdfast."""

import sys
from types import ModuleType


def unfold(name, source):
    module = sys.modules[name] = ModuleType(name)
    module.__path__ = []
    if "__file__" in globals():
        module.__file__ = __file__
    exec(compile(source, name, "exec"), module.__dict__)
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, module)


for name in ("drivers", "drivers.process", "drivers.systemd"):
    unfold(name, "")
'''
CLOSE: Final = """\
SOURCE = b""  # the whole of this, where it stands in memory alone


def main(arguments):
    sys.modules["drivers.process.host"].SOURCE = SOURCE
    return sys.modules["drivers.systemd.host"].main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@cache
def parcel() -> bytes:
    found = [(f"drivers.{name}", DRIVERS / f"{name.replace('.', '/')}.py") for name in MODULES]
    return "".join([OPEN, *(f"unfold({name!r}, {path.read_text()!r})\n" for name, path in found), CLOSE]).encode()
