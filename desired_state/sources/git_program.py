"""The git program, run so that nothing it finds can run, ask or lead elsewhere: argument lists, an environment of its
own, a deadline, and a bound on whatever it writes. What it says in failing becomes one of our reasons here."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream, Process

from desired_state.findings import escaped
from desired_state.sources.base import SourceUnavailable

ERRORS: Final = 16 << 10  # bytes kept of what it says in failing
OUTPUT: Final = 32 << 20
FAREWELL: Final = 5.0  # seconds

HARDENED: Final = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.symlinks": "false",
    "core.askPass": "/bin/false",
    "core.sshCommand": "/bin/false",
    "core.alternateRefsCommand": "/bin/false",
    "core.attributesFile": "/dev/null",
    "credential.helper": "",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "fetch.unpackLimit": "1",
    "fetch.writeCommitGraph": "false",
    "transfer.bundleURI": "false",
    "transfer.fsckObjects": "true",
    "fetch.fsckObjects": "true",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "100",
    "http.lowSpeedTime": "20",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "pack.threads": "1",
    "protocol.allow": "never",
    "protocol.version": "2",
    "log.showSignature": "false",
    "gpg.program": "/bin/false",
    "gpg.x509.program": "/bin/false",
    "gpg.ssh.program": "/bin/false",
    "gpg.ssh.allowedSignersFile": "/dev/null",
}

# What git, curl and ssh say, the more telling words first. The words classify a failure, they decide nothing else.
_CAUSES: Final = tuple(
    (re.compile(words, re.IGNORECASE), reason, says)
    for words, reason, says in (
        (r"error: 30\d|redirect", "SourceRedirected", "the repository answers with a redirection, not followed"),
        (r"error: 403|HTTP 403", "SourceForbidden", "the repository may not be read with these credentials (403)"),
        (
            r"error: 401|HTTP 401|Authentication failed|could not read (Username|Password)|Permission denied \(",
            "SourceUnauthenticated",
            "the repository does not accept the credentials",
        ),
        (r"Host key verification failed|REMOTE HOST IDENTIFICATION", "SourceUntrusted", "the host's key is not known"),
        (r"SSL certificate|certificate verif|certificate problem|SSL: no alternative", "SourceUntrusted",
         "the server's certificate is not trusted"),
        (r"error: 404|HTTP 404|repository .*not found|does not appear to be a git repository|not found: did you run",
         "SourceMissing", "there is no repository at that address"),
        (r"find remote ref", "BranchMissing", "the repository has no such branch; it may be empty"),
        (r"Operation too slow|less than \d+ bytes/sec", "SourceSlow", "the repository sends too slowly"),
        (r"signal 25|File too large|exceeds maximum", "SourceTooLarge", "what the repository sends is too large"),
        (r"No space left|Disk quota", "NoSpace", "there is no room for the repository's objects"),
        (r"fsck|invalid index-pack|bad object|corrupt|bad pack|inflate|early EOF.*\n.*index-pack", "SourceCorrupt",
         "what the repository sends is damaged"),
        (r"transport '.*' not allowed", "SourceRefused", "that way of reaching a repository is not allowed"),
        (r"dubious ownership", "SourceForbidden", "the repository on this host belongs to another user"),
        (
            r"Could not resolve|Failed to connect|Connection (refused|reset|timed out|closed)|Couldn't connect"
            r"|Could not read from remote|unable to access|hung up|early EOF|Empty reply|RPC failed|timed out"
            r"|error: 5\d\d",
            "SourceDown",
            "the repository does not answer",
        ),
    )
)  # fmt: skip


class Slow(SourceUnavailable):
    """It did not end in time."""


class TooMuch(SourceUnavailable):
    """It wrote more than it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode(errors="surrogateescape").strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms one command runs: all of it within `deadline` seconds, no file above `file` bytes, at most `output`
    bytes printed. `settings` are git's, `variables` the environment's; secrets may stand in these and nowhere else."""

    deadline: float = 30.0
    file: int | None = None
    output: int = OUTPUT
    settings: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)


DEFAULT: Final = Terms()


class Program:
    """git on one bare repository of ours."""

    def __init__(self, repository: Path, home: Path) -> None:
        self.repository, self._home = repository, home

    async def run(self, *words: str, terms: Terms = DEFAULT, stdin: bytes = b"") -> Answer:
        """What it answered, whatever the exit code is. Raises `SourceUnavailable` when it did not run to its end."""
        program = shutil.which("git")
        if program is None:
            raise SourceUnavailable("there is no git program on this host; install git", reason="GitMissing")
        settings = [word for item in (HARDENED | dict(terms.settings)).items() for word in ("-c", "=".join(item))]
        argv = [program, "--no-pager", f"--git-dir={self.repository}", *settings, *words]
        return await run(argv, self._environment(terms), terms, stdin)

    async def wants(self, *words: str, terms: Terms = DEFAULT, stdin: bytes = b"") -> Answer:
        """The answer of a command that is to succeed; anything else is raised with its cause."""
        answer = await self.run(*words, terms=terms, stdin=stdin)
        if answer.code != 0:
            raise cause(answer)
        return answer

    def _environment(self, terms: Terms) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._home),
            "XDG_CONFIG_HOME": str(self._home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_SYSTEM": "/dev/null",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "SSH_ASKPASS": "/bin/false",
            "SSH_ASKPASS_REQUIRE": "never",
            "GIT_ALLOW_PROTOCOL": "none",
            "GIT_PROTOCOL_FROM_USER": "0",
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_ADVICE": "0",
            "LC_ALL": "C",
        } | dict(terms.variables)


async def run(argv: Sequence[str], environment: Mapping[str, str], terms: Terms, stdin: bytes = b"") -> Answer:
    """The program in a session of its own, so that its children end with it."""
    try:
        process = await anyio.open_process(argv, env=environment, cwd="/", start_new_session=True)
    except OSError as error:
        raise SourceUnavailable(f"{Path(argv[0]).name} cannot be run: {error.strerror}", reason="GitMissing") from None
    try:
        if terms.file is not None:  # before it has begun to talk to anybody, and inherited by its children
            with suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (terms.file, terms.file))
        with anyio.fail_after(terms.deadline):
            return await _talked(process, terms, stdin)
    except TimeoutError:
        raise Slow(f"no answer within {terms.deadline:g} s", reason="SourceSlow") from None
    finally:
        await _ended(process)


async def _talked(process: Process, terms: Terms, stdin: bytes) -> Answer:
    out, err = bytearray(), bytearray()
    assert process.stdout
    assert process.stderr
    async with anyio.create_task_group() as group:
        group.start_soon(_told, process, stdin)
        group.start_soon(_heard, process.stderr, err, ERRORS)
        whole = await _heard(process.stdout, out, terms.output)
        if not whole:
            _kill(process)
    if not whole:
        raise TooMuch(f"more than {terms.output} bytes of output", reason="SourceTooLarge")
    return Answer(code=await process.wait(), out=bytes(out), err=err.decode(errors="replace"))


async def _told(process: Process, stdin: bytes) -> None:
    assert process.stdin
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        if stdin:
            await process.stdin.send(stdin)
        await process.stdin.aclose()


async def _heard(stream: ByteReceiveStream, into: bytearray, most: int) -> bool:
    """Whether all of it found room; the rest is read and forgotten, so that the program is not held up by us."""
    whole = True
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        while True:
            chunk = await stream.receive()
            room = most - len(into)
            into += chunk[:room]
            if len(chunk) > room:
                whole = False
                if most != ERRORS:
                    return False
    return whole


async def _ended(process: Process) -> None:
    """It and all of its children."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(FAREWELL, shield=True):
        _kill(process)
        await process.aclose()


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def cause(answer: Answer) -> SourceUnavailable:
    """Why a command failed, as one of our reasons, with git's own last words."""
    for words, reason, says in _CAUSES:
        if words.search(answer.err):
            return SourceUnavailable(f"{says} ({_words(answer.err)})", reason=reason)
    return SourceUnavailable(f"git failed with {answer.code}: {_words(answer.err)}", reason="GitFailed")


def _words(err: str) -> str:
    """The most telling line: git says what is fatal first and advises after it."""
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))] or lines
    return escaped(telling[0], 200) if telling else "no word of why"
