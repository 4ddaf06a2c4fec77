"""A house for tests of commands: real parts in a directory of the test, no daemon, and documents that fit it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from api import commands, keys
from api.house import House
from api.people.principal import Principal, owner
from api.settings import Settings
from api.wiring import built

DIGEST = "sha256:" + "a" * 64
ANN = owner("ann")


def release(version: str = "1", name: str = "shop", digest: str = DIGEST) -> str:
    return (
        f'apiVersion: holdfast/v1\nkind: Release\nname: {name}\nversion: "{version}"\n'
        f"components:\n  web: registry.example.com/shop/web@{digest}\n"
    )


def environment(name: str = "staging", wanted: str = "shop@1", **more: Any) -> str:
    words = "".join(f"{key}: {json.dumps(value)}\n" for key, value in more.items())
    run = "components:\n  web: {command: [serve]}\n"
    return f"apiVersion: holdfast/v1\nkind: Environment\nname: {name}\nrelease: {wanted}\n{words}{run}"


def target(name: str = "web-1", of: str = "staging") -> str:
    there = "{via: local, root: /nonexistent/holdfast-test, artifacts: 'oci:/nonexistent/artifacts'}"
    head = f"apiVersion: holdfast/v1\nkind: Target\nname: {name}\nenvironment: {of}\n"
    return f"{head}driver: process\nconnection: {there}\n"


def source(name: str, **said: Any) -> str:
    return json.dumps({"apiVersion": "holdfast/v1", "kind": "Source", "name": name, **said})


@asynccontextmanager
async def house(place: Path, *sources: str) -> AsyncIterator[House]:
    """With these sources declared in a file."""
    file = place / "sources.yaml"
    file.write_text("\n---\n".join(sources))
    settings = Settings(state=place / "state", sources=file, log_level="error")
    if not settings.keys.exists():
        keys.init(settings.keys)
    async with built(settings) as made:
        yield made


async def ask(made: House, name: str, who: Principal = ANN, /, **arguments: Any) -> Mapping[str, Any]:
    """The command's result."""
    result: Mapping[str, Any] = {}
    async for event in commands.carry_out(made, name, arguments, principal=who):
        result = event.get("result", result)
    return result
