"""The parameters that routes share, as OpenAPI tells them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from stickers import names

PREFIX = "/api/v1"
PLACE = "/environments/{project}/{environment}"
JOB = PLACE + "/jobs/{number}"

_NAME = f"^{names.NAME.pattern}$"

Project = Annotated[str, Path(pattern=_NAME, max_length=63, examples=["default"])]
EnvironmentName = Annotated[str, Path(pattern=_NAME, max_length=63, examples=["staging"])]
TargetName = Annotated[str, Path(pattern=_NAME, max_length=63, examples=["web-1"])]
ComponentName = Annotated[str, Path(pattern=_NAME, max_length=63, examples=["api"])]
Number = Annotated[int, Path(ge=1, le=2**53)]
Qualified = Annotated[
    str | None, Query(max_length=127, description="name, or project/name", examples=["default/staging"])
]
Limit = Annotated[int, Query(ge=1, le=500)]
Many = Annotated[int, Query(ge=1, le=1_000)]
Before = Annotated[str | None, Query(max_length=300, description="`next` of the page before")]
After = Annotated[str | None, Query(max_length=300, description="`next` of the page before")]
FollowedAfter = Annotated[
    str | None, Query(max_length=41, description="the id of the last event seen; `Last-Event-ID` goes before it")
]
