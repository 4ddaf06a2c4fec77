"""Fields that the connections of several runtimes have."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from stickers import names


def _path(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError("expected an absolute path")
    return text


def _component(text: str) -> str:
    return names.name(text, "component")


AbsolutePath = Annotated[str, AfterValidator(_path)]
Component = Annotated[str, AfterValidator(_component)]
