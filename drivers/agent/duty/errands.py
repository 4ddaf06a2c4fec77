"""Commands and uploads, as far as the host's own settings name them: programs without a shell, files that stay below
their directory."""

from __future__ import annotations

import base64
import binascii
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_hex
from typing import Final

import anyio
import anyio.to_thread

from drivers.agent import protocol
from drivers.agent.duty.carry import Do, Done, Job
from drivers.agent.duty.settings import Settings, UploadTo
from drivers.agent.protocol import Errand, Lines, Upload, UploadedFile, Verb
from drivers.contract import Ended
from drivers.contract import Errand as Program
from drivers.errors import InvalidAction, OutcomeUnknown, Refused
from drivers.hooks import ran
from drivers.process.host import PATH
from stickers import digest

SHOWN: Final = 16 * 1024  # characters of what a command printed, the last ones
FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
DEEPEST: Final = 20
AT_ONCE: Final = 200  # files
TEMPORARY: Final = ".holdfast-"


class Errands:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def verbs(self) -> Mapping[Verb, Do]:
        return {Verb.EXECUTE_COMMAND: self.execute, Verb.UPLOAD_FILES: self.upload}

    async def execute(self, job: Job) -> Done:
        """How the program ended, whatever that was. One that a former run has begun is not begun again."""
        asked = job.work
        assert isinstance(asked, Errand)
        if job.again:
            raise OutcomeUnknown(f"commands.{asked.name}: the agent ended while it ran, and it is not run twice")
        command = self._settings.commands[asked.name]
        program = Program(
            argv=command.filled(asked.arguments),
            environment={"PATH": PATH} | command.environment,
            within=min(command.within, job.task.within - timedelta(seconds=1)),
        )
        try:
            code, output = await ran(program)
        except OSError as error:
            raise Refused(f"commands.{asked.name}: it cannot be run: {error.strerror}") from None
        why = f"did not end within {program.within.total_seconds():g} s" if code is None else f"exit code {code}"
        said = job.clean(output.decode(errors="replace"))[-SHOWN:]
        job.log.append(said)
        return Done(body=protocol.body(Ended(exit_code=code, why=why, said=said)), detail=f"{asked.name}: {why}")

    async def upload(self, job: Job) -> Done:
        """All of the files, each whole; none, where one of them cannot be had."""
        asked = job.work
        assert isinstance(asked, Upload)
        place = self._settings.uploads[asked.name]
        files = tuple(_read(asked.name, file, place) for file in asked.files)
        if len(files) > AT_ONCE or len({file.parts for file in files}) != len(files):
            raise InvalidAction(f"uploads.{asked.name}: at most {AT_ONCE} files, each once")
        try:
            await anyio.to_thread.run_sync(_write, place.directory, files)
        except OSError as error:
            raise Refused(f"uploads.{asked.name}: {error.filename or place.directory}: {error.strerror}") from None
        names = tuple("/".join(file.parts) for file in files)
        return Done(body=protocol.body(Lines(lines=names)), detail=f"{len(files)} files")


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    parts: tuple[str, ...]
    content: bytes
    mode: int


def _read(name: str, file: UploadedFile, place: UploadTo) -> _File:
    """What is sent, if it is what was authorised and stays below the directory."""
    where = f"uploads.{name}: {file.path[:80]!r}"
    parts = tuple(file.path.split("/"))
    if not all(parts) or {".", ".."} & set(parts) or "\0" in file.path or len(parts) > DEEPEST:
        raise InvalidAction(f"{where} is no path below the directory")
    if any(part.startswith(TEMPORARY) or len(os.fsencode(part)) > 255 for part in parts):
        raise InvalidAction(f"{where} has a name that is not let")
    try:
        content = base64.b64decode(file.content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidAction(f"{where} is not sent as base64") from None
    if digest.of_bytes(content) != file.digest:
        raise InvalidAction(f"{where} has another digest than was said")
    if len(content) > place.largest:
        raise InvalidAction(f"{where} is larger than {place.largest} bytes")
    return _File(parts=parts, content=content, mode=file.mode & place.bits)


def _write(directory: str, files: tuple[_File, ...]) -> None:
    """All beside their places first, and then all in their places. No link is followed on the way."""
    with ExitStack() as stack:
        root = stack.enter_context(_opened(directory, None))
        staged = []
        for file in files:
            folder = root
            for part in file.parts[:-1]:
                folder = stack.enter_context(_opened(part, folder))
            temporary = TEMPORARY + token_hex(8)
            stack.callback(_drop, temporary, folder)
            _stage(file, temporary, folder)
            staged.append((temporary, file.parts[-1], folder))
        for _, name, folder in staged:
            _refuse_folder(name, folder)
        for temporary, name, folder in staged:
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        for folder in {folder for _, _, folder in staged}:
            os.fsync(folder)


@contextmanager
def _opened(name: str, within: int | None) -> Iterator[int]:
    """A directory, made where it is missing below the first."""
    if within is not None:
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=within)
    folder = os.open(name, FOLDER, dir_fd=within)
    try:
        yield folder
    finally:
        os.close(folder)


def _stage(file: _File, temporary: str, folder: int) -> None:
    with os.fdopen(os.open(temporary, NEW, 0o600, dir_fd=folder), "wb") as out:
        out.write(file.content)
        out.flush()
        os.fchmod(out.fileno(), file.mode)
        os.fsync(out.fileno())


def _drop(temporary: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)


def _refuse_folder(name: str, folder: int) -> None:
    """What stands there is a file or a link, whose place is taken, or nothing."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise IsADirectoryError(errno.EISDIR, "a directory stands there", name)
