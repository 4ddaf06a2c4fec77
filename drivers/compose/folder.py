"""The directory of one project, on whatever host it stands: its lock files, and for each service a record of what it
was made of and its sticker. How it is laid out, and what a crash leaves, is said in `drivers.compose.host`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from drivers.compose.lock import Piece, Place
from drivers.process.line import Asks, Raw
from stickers import codec
from stickers.names import ActionKey, Digest
from stickers.observation import Worn
from stickers.signature import Envelope

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FORMAT: Final = "holdfast.compose/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one service beside its container, which carries no trace of an action: else no two actions
    would tell compose the same.

    `piece` is what the lock says. While `pending`, `back` is what stood when the change began, and is put back when
    its proof fails. Containers that are not `before` were made by the action of that key. `kept`: the newest first.
    """

    piece: Piece | None = None
    pending: bool = False
    back: Piece | None = None
    kept: tuple[Piece, ...] = ()
    key: ActionKey | None = None
    before: tuple[str, ...] = ()
    fence: int = 0
    format: str = FORMAT

    def key_of(self, instance: str) -> ActionKey | None:
        return None if instance in self.before else self.key

    @property
    def contents(self) -> tuple[tuple[Digest, Digest], ...]:
        """What could be put back without being fetched, beside what stands."""
        former = (self.back, *self.kept) if self.pending else self.kept
        own = self.piece.content if self.piece else None
        return tuple(dict.fromkeys(piece.content for piece in former if piece is not None and piece.content != own))

    @property
    def images(self) -> set[str]:
        return {piece.image for piece in (self.piece, self.back, *self.kept) if piece is not None}


@cache
def _codec() -> TypeAdapter[Record]:
    from pydantic import TypeAdapter

    return TypeAdapter(Record)


def read_record(text: str | None) -> Record:
    """What is recorded; one that cannot be read counts as none: the containers say what stands."""
    try:
        found = _codec().validate_json(text) if text is not None else Record()
    except ValueError:
        return Record()
    return found if found.format == FORMAT else Record()


def written(record: Record) -> str:
    return _codec().dump_json(record, indent=1).decode() + "\n"


def read_worn(text: str | None) -> Worn | None:
    if text is None:
        return None
    try:
        return Worn(envelope=codec.from_file(text.encode()))
    except codec.Unreadable as problem:
        return Worn(envelope=None, problem=str(problem))


class Folder:
    """One project's directory, for who acts there: held from `hold` until the line is closed."""

    def __init__(self, line: Asks, root: str, place: Place) -> None:
        self.line, self.place = line, place
        self.path = f"{root}/{place.project}"
        self.lock = f"{self.path}/lock.yaml"
        self.where: Raw = {"root": root, "project": place.project}

    async def hold(self) -> Mapping[str, Any] | None:
        """Take it, or `Busy`. How compose ended there last, where that is known."""
        last: Mapping[str, Any] | None = (await self.line("hold", self.where))["last"]
        return last

    async def record(self, service: str) -> Record:
        found = await self.line.see("records", self.where, service=service)
        return read_record(found["records"][service])

    async def records(self) -> dict[str, Record]:
        found = (await self.line.see("records", self.where))["records"]
        return {service: read_record(text) for service, text in found.items()}

    async def images(self) -> set[str]:
        """What the projects of this root may still run, without fetching it."""
        found = (await self.line.see("neighbours", self.where))["records"]
        return _images(read_record(text) for text in found)

    async def worn(self, service: str) -> Worn | None:
        return read_worn((await self.line.see("worn", self.where, service=service))["text"])

    async def write_record(self, service: str, record: Record) -> None:
        await self.line("write", self.where, service=service, name="record.json", content=written(record))

    async def wear(self, service: str, envelope: Envelope) -> None:
        content = codec.to_file(envelope).decode()
        await self.line("write", self.where, service=service, name="sticker.json", content=content)

    async def bare(self, service: str) -> None:
        await self.line("bare", self.where, service=service)

    async def write_lock(self, content: bytes) -> None:
        await self.line("write_lock", self.where, content=content.decode())

    async def prune(self, keep: int) -> None:
        await self.line("prune", self.where, keep=keep)


def _images(records: Iterable[Record]) -> set[str]:
    return {image for record in records for image in record.images}
