"""The helper as it is brought to a Windows host: one script, known by its digest, and the two lines that begin it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Final

SCRIPT: Final = Path(__file__).with_name("holdfast.ps1")
POWERSHELL: Final = "powershell.exe"
_WORDS: Final = ("-NoLogo", "-NoProfile", "-NonInteractive", "-InputFormat", "None", "-OutputFormat", "Text")

# All that a command line on the host ever says. Which script, and every value, comes on standard input, which
# PowerShell itself is told to leave alone.
LOADER: Final = """\
$ErrorActionPreference='Stop'
$r=New-Object IO.StreamReader([Console]::OpenStandardInput(),[Text.Encoding]::ASCII)
$o=ConvertFrom-Json $r.ReadLine()
$m=New-Object IO.MemoryStream(,[Convert]::FromBase64String($r.ReadLine()))
$u=New-Object IO.MemoryStream
(New-Object IO.Compression.GZipStream($m,[IO.Compression.CompressionMode]::Decompress)).CopyTo($u)
$d=-join([Security.Cryptography.SHA256]::Create().ComputeHash($u.ToArray())|%{$_.ToString('x2')})
if($d -cne $o.digest){[Console]::Error.WriteLine('the script that came is not the one that was named');exit 3}
$p=[Text.Encoding]::UTF8.GetString($u.ToArray())
$o|Add-Member program $p
&([scriptblock]::Create($p)) $r $o
"""

# Begun by Windows itself in a placement's directory, whose order names what is to be run.
RUNNER: Final = """\
$ErrorActionPreference='Stop'
$o=ConvertFrom-Json([IO.File]::ReadAllText([IO.Path]::Combine([Environment]::CurrentDirectory,'order.json')))
&([scriptblock]::Create($o.program)) $null $o
"""


def encoded(script: str) -> str:
    return base64.b64encode(script.encode("utf-16-le")).decode()


def arguments(script: str = LOADER) -> tuple[str, ...]:
    return (*_WORDS, "-EncodedCommand", encoded(script))


def line(script: str = LOADER) -> str:
    """The whole command line; none of its words needs a quote in any shell."""
    return " ".join((POWERSHELL, *arguments(script)))


@cache
def source() -> bytes:
    return SCRIPT.read_bytes()


@cache
def digest() -> str:
    return hashlib.sha256(source()).hexdigest()


@cache
def opening() -> bytes:
    """The first two lines that the loader reads."""
    said = json.dumps({"digest": digest(), "runner": line(RUNNER)})
    return f"{said}\n".encode() + base64.b64encode(gzip.compress(source(), 9, mtime=0)) + b"\n"
