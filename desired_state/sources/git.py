"""A git repository as a source: one branch, fetched into a bare clone of ours and read object by object. Nothing is
checked out, so no link, filter, hook or attribute of the repository ever takes effect.

Reasons that a read is refused for, each a word of its own: SourceDown, SourceSlow, SourceForbidden,
SourceUnauthenticated, SourceUntrusted, SourceRedirected, SourceMissing, SourceTooLarge, SourceCorrupt, BranchMissing,
PathMissing, HistoryRewritten, SignatureMissing, SignatureInvalid, CredentialsUnavailable, NoSpace, GitMissing.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio
from anyio import to_thread

from desired_state.findings import Finding, escaped
from desired_state.sources.base import NOTHING, InForce, SourceUnavailable, Tree
from desired_state.sources.directory import FILES, LEVELS, SUFFIXES, TREE_BYTES
from desired_state.sources.git_program import Answer, Program, Terms, cause
from desired_state.sources.git_trust import Trust, Verify
from desired_state.strict import FILE_BYTES

TIP: Final = "refs/holdfast/fetched"
ACCEPTED: Final = "refs/holdfast/accepted"
COMMITS: Final = 1000  # signatures looked at for one read
PACKS: Final = 50  # above it they are made one
LISTING: Final = 16 << 20  # bytes of the listing of a tree
SCHEMES: Final = ("https", "ssh", "http", "file")
LINK, SUBMODULE, PLAIN = "120000", "160000", ("100644", "100755", "100664")

_DAMAGED: Final = re.compile(r"corrupt|bad object|not a git repository|unable to read|missing (blob|tree|commit)|loose")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """Which documents of which repository. `path` is the directory that holds them, empty for the whole; `size` bounds
    what one fetch may bring, in bytes; `deadline` is how many seconds it may take. `ca` and `known_hosts` are files
    of this host. `rewrites`: the branch may go anywhere, also back."""

    url: str
    ref: str
    path: str = ""
    username: str = "git"
    deadline: float = 60.0
    size: int = 256 << 20
    ca: Path | None = None
    known_hosts: Path | None = None
    rewrites: bool = False
    verify: Verify | None = None

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme

    @property
    def full_ref(self) -> str:
        return self.ref if self.ref.startswith("refs/") else f"refs/heads/{self.ref}"


Secret = Callable[[], Awaitable[str]]  # raises SourceUnavailable


class Git:
    """A `Source`. `place` is a directory of its own; `secret` answers the token or the private key when it is used."""

    def __init__(self, repository: Repository, place: Path, secret: Secret | None = None) -> None:
        self._of, self._place, self._secret = repository, place, secret
        self._home = place / "home"
        self._git = Program(place / "clone.git", self._home)
        verify = repository.verify
        self._trust = Trust(verify, self._git, place / "keyring") if verify else None
        self._one = anyio.Lock()
        self._known: Tree | None = None

    async def read(self, in_force: InForce = NOTHING) -> Tree:
        async with self._one:
            try:
                return await self._read(in_force)
            except SourceUnavailable as error:
                if error.reason != "CloneDamaged":
                    raise
                await to_thread.run_sync(_removed, self._place)
                return await self._read(in_force)

    async def changes(self) -> AsyncGenerator[None, None]:
        """Nobody tells; it is asked at its interval, and when a webhook says so."""
        yield
        await anyio.sleep_forever()

    async def _read(self, in_force: InForce) -> Tree:
        await self._prepare()
        tip = await self._fetched()
        try:
            await self._insist_on_line(tip, in_force)
            signer = await self._signer(tip, in_force)
            return await self._tree(tip, signer)
        except SourceUnavailable as error:
            error.revision = error.revision or tip
            raise

    # -- what is there ----------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        """A bare repository without a template, and without what a process that was killed has left in it."""
        await to_thread.run_sync(_tidied, self._place, self._git.repository)
        if not (self._git.repository / "HEAD").exists():
            await self._git.wants("init", "--quiet", "--bare", "--template=")

    async def _fetched(self) -> str:
        """The commit that the branch is at. Commits of earlier fetches stay."""
        words = ("--quiet", "--force", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--refmap=")
        async with self._access() as terms:
            answer = await self._git.run(
                "fetch", *words, "--", self._of.url, f"+{self._of.full_ref}:{TIP}", terms=terms
            )
        if answer.code != 0:
            raise await to_thread.run_sync(self._why, answer)
        found = await self._local("rev-parse", "--verify", "--quiet", "--end-of-options", f"{TIP}^{{commit}}")
        await self._packed()
        return found.text

    def _why(self, answer: Answer) -> SourceUnavailable:
        """A pack that met its bound ends its writer without a word; it is as long as it may be."""
        left = [path.stat().st_size for path in self._git.repository.glob("objects/pack/tmp_pack_*")]
        _tidied(self._place, self._git.repository)
        if any(size >= self._of.size for size in left):
            says = f"the repository sends more than {self._of.size >> 20} MiB at once"
            return SourceUnavailable(says, reason="SourceTooLarge")
        return cause(answer)

    async def _packed(self) -> None:
        """Every fetch leaves a pack; many of them make reading slow."""
        count = await to_thread.run_sync(lambda: sum(1 for _ in self._git.repository.glob("objects/pack/*.pack")))
        if count > PACKS:
            await self._git.run("repack", "-adkq", terms=Terms(deadline=self._of.deadline))

    async def _local(self, *words: str, terms: Terms | None = None, stdin: bytes = b"") -> Answer:
        """A command that needs nothing but our clone: where it fails, the clone is damaged, and is made anew."""
        answer = await self._git.run(*words, terms=terms or Terms(), stdin=stdin)
        if answer.code != 0 and _DAMAGED.search(answer.err):
            raise SourceUnavailable("our clone of the repository is damaged", reason="CloneDamaged")
        if answer.code != 0:
            raise cause(answer)
        return answer

    # -- who is let in ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _access(self) -> AsyncIterator[Terms]:
        """How the repository is reached: the one protocol, and the credentials for as long as they are used."""
        of = self._of
        if of.scheme not in SCHEMES:
            raise SourceUnavailable(f"a repository is not reached by {of.scheme or 'that'}", reason="SourceRefused")
        settings = {f"protocol.{of.scheme}.allow": "always"}
        if of.ca is not None:
            settings["http.sslCAInfo"] = str(of.ca)
        variables = {"GIT_ALLOW_PROTOCOL": of.scheme}
        terms = Terms(deadline=of.deadline, file=of.size, settings=settings, variables=variables)
        value = await self._secret() if self._secret else None
        if of.scheme == "ssh":
            with tempfile.TemporaryDirectory(dir=self._place, prefix="key-") as place:
                yield replace(terms, variables=variables | self._ssh(Path(place), value))
        elif value is not None:
            yield replace(terms, variables=variables | self._header(value))
        else:
            yield terms

    def _header(self, value: str) -> dict[str, str]:
        """The token in a header for this host alone, handed over in the environment: an argument can be seen by all."""
        user, colon, password = value.partition(":")
        pair = value if colon and user and password else f"{self._of.username}:{value}"
        header = f"Authorization: Basic {base64.b64encode(pair.encode()).decode()}"
        found = urlsplit(self._of.url)
        return {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"http.{found.scheme}://{found.netloc}/.extraHeader",
            "GIT_CONFIG_VALUE_0": header,
        }

    def _ssh(self, place: Path, key: str | None) -> dict[str, str]:
        """ssh by a command of our own paths and constants, quoted word by word; the key is in a file that only we can
        read, for as long as the fetch takes."""
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": f'"{self._of.known_hosts or "/dev/null"}"',
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "ConnectTimeout": "15",
            "ForwardAgent": "no",
            "ClearAllForwardings": "yes",
            "PermitLocalCommand": "no",
        }
        if key is not None:
            file = place / "key"
            file.touch(mode=0o600)
            file.write_text(key if key.endswith("\n") else key + "\n")
            options["IdentityFile"] = f'"{file}"'
        words = ["ssh", "-F", "none", *(word for item in options.items() for word in ("-o", "=".join(item)))]
        return {"GIT_SSH_COMMAND": shlex.join(words), "GIT_SSH_VARIANT": "ssh"}

    # -- what may follow ----------------------------------------------------------------------------------------------

    async def _insist_on_line(self, tip: str, in_force: InForce) -> None:
        """The tip comes after what is in force: a branch that was set back, or replaced, is not followed."""
        before = in_force.revision
        if before is None or tip in (before, in_force.allowed) or self._of.rewrites or not _COMMIT.fullmatch(before):
            await self._keep(tip)
            return
        answer = await self._git.run("merge-base", "--is-ancestor", before, tip)
        if answer.code == 0:
            await self._keep(before)
            return
        raise SourceUnavailable(
            f"{self._of.ref} is at {tip[:12]}, which does not follow from {before[:12]}, the last accepted: "
            f"history was rewritten; `holdfast source refresh NAME --allow {tip}` lets this one in",
            reason="HistoryRewritten",
        )

    async def _keep(self, commit: str) -> None:
        """What is in force stays in our clone whatever becomes of the branch."""
        await self._git.run("update-ref", "--no-deref", ACCEPTED, commit)

    async def _signer(self, tip: str, in_force: InForce) -> str | None:
        if self._trust is None:
            return None
        if self._known is not None and self._known.revision == tip:
            return self._known.signer
        before = in_force.revision
        if self._trust.verify.commits == "all" and before and _COMMIT.fullmatch(before) and before != tip:
            words = (f"--max-count={COMMITS + 1}", "--end-of-options", f"{before}..{tip}")
            since = (await self._local("rev-list", *words)).text.split()
            if len(since) > COMMITS:
                raise SourceUnavailable(f"more than {COMMITS} commits to verify at once", reason="SignatureInvalid")
            await self._trust.signers(each for each in since if each != tip)
        return await self._trust.signer(tip)

    # -- what it says -----------------------------------------------------------------------------------------------

    async def _tree(self, tip: str, signer: str | None) -> Tree:
        content = await self._directory(tip)
        known = self._known
        if known is None or known.content != content:
            listed = [*self._sorted(await self._listing(content))]
            files = [each for each in listed if isinstance(each, _Blob)]
            self._insist_on_size(files)
            known = Tree(
                files=await self._contents(files),
                revision=tip,
                findings=tuple(each for each in listed if isinstance(each, Finding)),
                content=content,
            )
        self._known = replace(known, revision=tip, signer=signer)
        return self._known

    async def _directory(self, tip: str) -> str:
        """The object that holds the documents: the same for every commit that leaves them alone."""
        where = f"{tip}:{self._of.path}" if self._of.path else f"{tip}^{{tree}}"
        found = await self._git.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{where}")
        kind = await self._git.run("cat-file", "-t", found.text) if found.code == 0 else found
        if kind.code != 0 or kind.text != "tree":
            raise SourceUnavailable(f"{self._of.ref} has no directory {self._of.path} any more", reason="PathMissing")
        return found.text

    async def _listing(self, tree: str) -> list[tuple[str, str, int, str]]:
        """Mode, object, size and path of everything below, in the order of names."""
        answer = await self._local("ls-tree", "-r", "-z", "-l", "--full-tree", tree, terms=Terms(output=LISTING))
        found = []
        for line in answer.out.split(b"\0")[:-1]:
            head, _, name = line.partition(b"\t")
            mode, _, object_, size = head.decode().split()
            found.append((mode, object_, int(size) if size.isdigit() else 0, os.fsdecode(name)))
        return sorted(found, key=lambda each: each[3])

    def _sorted(self, listing: list[tuple[str, str, int, str]]) -> Iterator[_Blob | Finding]:
        for mode, object_, size, name in listing:
            steps = name.split("/")
            if any(step.startswith(".") for step in steps):
                continue
            if mode == SUBMODULE:
                yield _finding(name, "SUBMODULE", "a submodule, which is not followed", "the directory itself")
            elif not name.lower().endswith(SUFFIXES):
                continue
            elif len(steps) > LEVELS:
                yield _finding(name, "TOO_DEEP", f"more than {LEVELS} levels of directories", "fewer")
            elif mode == LINK:
                yield _finding(name, "FILE_LINK", "a symbolic link, which is not followed", "the file itself")
            elif mode not in PLAIN:
                yield _finding(name, "NOT_A_FILE", "something that is no file", "a file")
            elif size > FILE_BYTES:
                yield _finding(name, "FILE_TOO_LARGE", f"more than {FILE_BYTES} bytes", "smaller files")
            else:
                yield _Blob(name=name, object=object_, size=size)

    def _insist_on_size(self, files: list[_Blob]) -> None:
        if len(files) > FILES:
            raise SourceUnavailable(f"more than {FILES} documents' files", reason="SourceTooLarge")
        if sum(file.size for file in files) > TREE_BYTES:
            raise SourceUnavailable(f"more than {TREE_BYTES >> 20} MiB of documents", reason="SourceTooLarge")

    async def _contents(self, files: list[_Blob]) -> dict[str, bytes]:
        if not files:
            return {}
        terms = Terms(output=TREE_BYTES + 200 * FILES)
        asked = "".join(f"{file.object}\n" for file in files).encode()
        answer = await self._local("cat-file", "--batch", "--buffer", terms=terms, stdin=asked)
        return dict(_batched(files, answer.out))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blob:
    name: str
    object: str
    size: int


def _batched(files: list[_Blob], out: bytes) -> Iterator[tuple[str, bytes]]:
    """What `cat-file --batch` answers: for each object a line with its size, the bytes, and a line's end."""
    at = 0
    for file in files:
        end = out.find(b"\n", at)
        head = out[at:end].split()
        if end < 0 or len(head) != 3 or head[:2] != [file.object.encode(), b"blob"]:
            raise SourceUnavailable("our clone of the repository is damaged", reason="CloneDamaged")
        size = int(head[2])
        yield file.name, out[end + 1 : end + 1 + size]
        at = end + size + 2


def _finding(name: str, code: str, found: str, expected: str) -> Finding:
    return Finding(code=code, file=escaped(name), line=1, column=1, path="", found=found, expected=expected)


def _tidied(place: Path, repository: Path) -> None:
    """Only one process uses the place, and one read at a time: locks and half packs are of one that was killed."""
    (place / "home").mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in (
        *repository.glob("refs/**/*.lock"),
        *repository.glob("*.lock"),
        *repository.glob("objects/pack/tmp_*"),
    ):
        left.unlink(missing_ok=True)
    for left in place.glob("key-*"):
        shutil.rmtree(left, ignore_errors=True)


def _removed(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
