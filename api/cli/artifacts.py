"""The command that shows what files a job deployed."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from api.cli import show
from api.client import ask
from api.problem import OK, Problem
from api.settings import Settings


def index(settings: Settings, given: Namespace) -> int:
    words = {name: getattr(given, name) for name in ("job", "kind", "target", "name")}
    answer = ask(settings, "artifacts", **words, text=given.output != "text")
    match given.output:
        case "json":
            show.as_json(answer)
        case "raw":
            sys.stdout.buffer.write(_one(answer, back=given.back)["text"].encode())
            sys.stdout.buffer.flush()
        case _:
            _listed(answer)
    return OK


def _one(answer: dict[str, Any], *, back: bool) -> dict[str, Any]:
    direction = "back" if back else "forward"
    found: list[dict[str, Any]] = [file for file in answer["files"] if file["direction"] == direction]
    if len(found) == 1:
        return found[0]
    if not found:
        raise Problem("NO_ARTIFACT", f"{answer['job']} has no such file of its way {direction}")
    there = ", ".join(f"--target {file['target']} --name {file['name']}" for file in found[:5])
    raise Problem("MANY_ARTIFACTS", f"{len(found)} files are meant, and raw shows one: {there}")


def _listed(answer: dict[str, Any]) -> None:
    show.columns(
        ("target", "components", "file", "kind", "direction", "digest"),
        (
            (
                show.clean(file["target"] or "all"),
                show.brief(", ".join(file["components"]) or "all", 40),
                show.clean(file["name"]),
                file["kind"],
                file["direction"],
                show.clean(file["digest"]),
            )
            for file in answer["files"]
        ),
    )
    if not answer["files"]:
        print(f"{show.clean(answer['job'])} has none: it is not prepared yet, or was ended before")
