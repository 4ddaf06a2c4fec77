"""What is written on a service, as tags: stickers in chunks, what was last done for each component, and what is kept.

Tags are short (128 characters of key, 256 of value, 50 in all), so everything here is. What somebody has garbled by
hand reads as nothing, or as a sticker that cannot be read; never as something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from stickers import codec
from stickers.names import ActionKey, ComponentName, InstallationId, TargetId
from stickers.observation import Worn
from stickers.signature import Envelope

OWNER: Final = "holdfast:owner"  # installation and target: a service is one target's alone
TASKS: Final = "holdfast:tasks"  # how many ran when the service was declared stopped
USUAL: Final = 8  # chunks of a sticker
LONGEST: Final = 256  # characters of a value

Tags = Mapping[str, str]

_NOTHING: Final = "-"
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_FAMILY_REVISION: Final = re.compile(r"[A-Za-z0-9_-]{1,255}:[0-9]{1,10}")
_HEAD: Final = re.compile(r"00/(?P<count>[0-9]{2}):")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """A change on its way: whose it is, the content it brings, and the deployment that was before it."""

    key: ActionKey
    content: str
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What was done for one component: the action that made what stands, of which content, and the highest fence."""

    key: ActionKey | None = None
    content: str = ""
    fence: int = 0
    deed: Deed | None = None

    @property
    def done(self) -> Work:
        """As after the deed."""
        return self if self.deed is None else replace(self, key=self.deed.key, content=self.deed.content, deed=None)


def owner(installation: InstallationId, target: TargetId) -> str:
    return f"{installation} {target}"


# -- what was done ----------------------------------------------------------------------------------------------------


def work_key(component: ComponentName) -> str:
    return f"holdfast:{component}:work"


def kept_key(component: ComponentName) -> str:
    return f"holdfast:{component}:kept"


def work_text(work: Work) -> str:
    deed = work.deed
    parts = (work.key, work.content, str(work.fence))
    pending = (deed.key, deed.content, deed.since) if deed else (None, None, None)
    return " ".join(part or _NOTHING for part in (*parts, *pending))


def work(tags: Tags, component: ComponentName) -> Work | None:
    """None where nothing was done, or what is written there is not ours."""
    parts = tags.get(work_key(component), "").split(" ")
    if len(parts) != 6 or not parts[2].isdigit():
        return None
    key, content, fence, deed_key, deed_content, since = ("" if part == _NOTHING else part for part in parts)
    if any(one and not _KEY.fullmatch(one) for one in (key, deed_key)):
        return None
    deed = Deed(key=ActionKey(deed_key), content=deed_content, since=since) if deed_key else None
    return Work(key=ActionKey(key) if key else None, content=content, fence=int(fence), deed=deed)


def kept_text(revisions: Iterable[str]) -> str:
    """As many of the newest as fit."""
    text = ""
    for revision in dict.fromkeys(revisions):
        longer = f"{text} {revision}".strip()
        if len(longer) > LONGEST:
            break
        text = longer
    return text


def kept(tags: Tags, component: ComponentName) -> tuple[str, ...]:
    """Predecessors as ``family:revision``, the newest first."""
    found = tags.get(kept_key(component), "").split(" ")
    return tuple(one for one in found if _FAMILY_REVISION.fullmatch(one))


# -- stickers ---------------------------------------------------------------------------------------------------------


def sticker_tags(component: ComponentName, envelope: Envelope) -> dict[str, str]:
    chunks = codec.to_chunks(envelope, LONGEST)
    return {_chunk_key(component, index): chunk for index, chunk in enumerate(chunks)}


def worn(tags: Tags, component: ComponentName) -> Worn | None:
    """The sticker. Its first chunk says how many there are; those beyond are left of a longer one, and not read."""
    first = tags.get(_chunk_key(component, 0))
    if first is None:
        return None if not chunk_keys(tags, component) else Worn(envelope=None, problem="its first chunk is missing")
    head = _HEAD.match(first)
    if head is None:
        return Worn(envelope=None, problem="its first chunk does not say how many there are")
    keys = [_chunk_key(component, index) for index in range(int(head["count"]))]
    try:
        return Worn(envelope=codec.from_chunks([tags[key] for key in keys if key in tags]))
    except codec.Unreadable as error:
        return Worn(envelope=None, problem=str(error))


def chunk_keys(tags: Iterable[str], component: ComponentName) -> list[str]:
    """The keys of everything that is, or was, part of the component's sticker."""
    pattern = re.compile(rf"holdfast:{re.escape(component)}:[0-9]{{2}}")
    return sorted(key for key in tags if pattern.fullmatch(key))


def usual_chunks(component: ComponentName) -> list[str]:
    """The keys that an ordinary sticker needs."""
    return [_chunk_key(component, index) for index in range(USUAL)]


def of_component(tags: Iterable[str]) -> set[str]:
    """The keys that belong to any component."""
    return {key for key in tags if re.fullmatch(r"holdfast:[a-z0-9-]+:(?:work|kept|[0-9]{2})", key)}


def _chunk_key(component: ComponentName, index: int) -> str:
    return f"holdfast:{component}:{index:02d}"
