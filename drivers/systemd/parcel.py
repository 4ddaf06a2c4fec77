"""The host's side as one file, for hosts on which nothing of ours is installed: a zip archive that Python runs.

`python3 -I -S <file> session` answers requests as `drivers.process.host` does. The same sources give the same bytes.
"""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Final

DRIVERS: Final = Path(__file__).parents[1]
SOURCES: Final = ("process/host.py", "systemd/host.py", "systemd/unit.py")
PACKAGES: Final = ("", "process/", "systemd/")
MAIN: Final = "import sys\nfrom drivers.systemd.host import main\n\nsys.exit(main(sys.argv[1:]))\n"
WRITTEN: Final = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip archive knows


def parcel() -> bytes:
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in PACKAGES:
            archive.writestr(_file(f"drivers/{package}__init__.py"), "")
        for source in SOURCES:
            archive.writestr(_file(f"drivers/{source}"), (DRIVERS / source).read_bytes())
        archive.writestr(_file("__main__.py"), MAIN)
    return content.getvalue()


def _file(name: str) -> zipfile.ZipInfo:
    found = zipfile.ZipInfo(name, WRITTEN)
    found.compress_type, found.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return found
