"""Several modules of a host's side as one file of Python, for hosts on which nothing of ours is installed.

Run as `python3 -I -S <file> session` it answers as the last of its modules does; executed as a module, its `main` does.
The same sources give the same bytes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

DRIVERS: Final = Path(__file__).parents[1]
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


'''
CLOSE: Final = """\
SOURCE = b""  # the whole of this, where it stands in memory alone


def main(arguments):
    sys.modules["drivers.process.host"].SOURCE = SOURCE
    return sys.modules[{last!r}].main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@cache
def parcel(*modules: str) -> bytes:
    """Those modules of `drivers`, each after the ones it imports; the last one answers."""
    packages = dict.fromkeys(["drivers", *(f"drivers.{name.rpartition('.')[0]}" for name in modules)])
    found = [(f"drivers.{name}", DRIVERS / f"{name.replace('.', '/')}.py") for name in modules]
    empty = [f"unfold({name!r}, '')\n" for name in packages]
    full = [f"unfold({name!r}, {path.read_text()!r})\n" for name, path in found]
    return "".join([OPEN, *empty, *full, CLOSE.format(last=found[-1][0])]).encode()
