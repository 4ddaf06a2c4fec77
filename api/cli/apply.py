"""`holdfast apply` and `holdfast export`: documents into the database, and back as YAML."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from api.cli import show
from api.client import ask
from api.problem import OK, Problem
from api.settings import Settings

BYTES = 800_000  # of all files; more than that does not fit one request


def apply(settings: Settings, given: Namespace) -> int:
    files = dict(pair for name in given.file for pair in _read(name))
    if sum(map(len, files.values())) > BYTES:
        raise Problem("BODY_TOO_LARGE", f"more than {BYTES} bytes of documents at once; apply them in parts")
    more = {"revision": given.revision} if given.revision is not None else {}
    answer = ask(settings, "apply", files=files, dry_run=given.dry_run, remove=given.remove, **more)
    if given.output == "json":
        show.as_json(answer)
    else:
        _applied(answer)
    return OK


def _read(name: str) -> list[tuple[str, str]]:
    if name == "-":
        return [("stdin", sys.stdin.read())]
    path = Path(name)
    try:
        if not path.is_dir():
            return [(name, path.read_text())]
        found = sorted(each for each in path.rglob("*") if each.suffix in (".yaml", ".yml") and each.is_file())
        return [(str(each), each.read_text()) for each in found]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise Problem("NO_FILE", f"{name}: {reason}") from None


def _applied(answer: dict[str, Any]) -> None:
    would = "would be " if answer["dry_run"] else ""
    for change in answer["changes"]:
        print(f"{change['kind'].lower()} {show.clean(change['project'])}/{show.clean(change['name'])} "
              f"{would}{change['change']}")  # fmt: skip
    if not answer["changes"]:
        print(f"Nothing to change; revision {answer['revision']}.")
    elif not answer["dry_run"]:
        print(f"revision {answer['revision']}")
    if fault := answer.get("fault"):
        print(show.paint(f"Written, but not taken: {show.clean(fault['message'])} [{fault['reason']}]", "33"))


def export(settings: Settings, given: Namespace) -> int:
    answer = ask(settings, "export", environment=given.environment)
    if given.output == "json":
        show.as_json(answer)
    elif given.to is None:
        print("---\n".join(answer["files"].values()), end="")
    else:
        _write(Path(given.to), answer["files"])
    return OK


def _write(place: Path, files: dict[str, str]) -> None:
    if taken := [name for name in files if (place / name).exists()]:
        raise Problem("EXISTS", f"{place / taken[0]} exists already; nothing was written")
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
        print(f"wrote {place / name}")
