"""Whose commits are believed: a signature by a key of a file that stands on this host, never in the repository.

git answers `verify-commit` with an exit code; its words say "Good signature" for keys that nobody knows, so they are
never read. The commit's status must be good as well, and the method that was not asked for has no keys at all.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from anyio import to_thread

from desired_state.findings import escaped
from desired_state.sources import git_program
from desired_state.sources.base import SourceUnavailable
from desired_state.sources.git_program import Program, Terms

KEYS_BYTES: Final = 4 << 20
GOOD: Final = "G"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """Which signatures are asked for: `ssh` by a file of allowed signers, `gpg` by a file of public keys. `commits` is
    the tip alone, or all since the last that was accepted."""

    method: Literal["ssh", "gpg"]
    keys: Path
    commits: Literal["tip", "all"] = "tip"


class Trust:
    """Signatures of the commits of one repository."""

    def __init__(self, verify: Verify, git: Program, home: Path) -> None:
        self.verify, self._git, self._home = verify, git, home
        self._imported: str | None = None  # what the keyring was made of

    async def signer(self, commit: str) -> str:
        """Who signed the commit. Raises `SourceUnavailable` unless it is a valid signature by a known key."""
        terms = await self._terms()
        answer = await self._git.run("verify-commit", "--raw", commit, terms=terms)
        if answer.code != 0:
            raise await self._refused(commit)
        shown = await self._git.wants("log", "-1", "--format=%G?%x00%GS%x00%GF", commit, "--", terms=terms)
        status, _, rest = shown.text.partition("\0")
        name, _, key = rest.partition("\0")
        if status != GOOD:
            raise _untrusted(f"the signature of {commit[:12]} is not good ({escaped(status)})", commit)
        return escaped(f"{name} ({key})" if key else name, 200)

    async def signers(self, commits: Iterable[str]) -> list[str]:
        return [await self.signer(commit) for commit in commits]

    async def _refused(self, commit: str) -> SourceUnavailable:
        """Whether there is no signature at all, or none by a key that is known here."""
        content = await self._git.wants("cat-file", "commit", commit)
        header = content.out.partition(b"\n\n")[0]
        if b"\ngpgsig" not in header:
            return SourceUnavailable(f"commit {commit[:12]} is not signed", reason="SignatureMissing", revision=commit)
        return _untrusted(f"commit {commit[:12]} has no valid signature by a key of {self.verify.keys}", commit)

    async def _terms(self) -> Terms:
        await to_thread.run_sync(_insist_on_keys, self.verify.keys)
        if self.verify.method == "ssh":
            settings = {
                "gpg.format": "ssh",
                "gpg.ssh.program": _program("ssh-keygen"),
                "gpg.ssh.allowedSignersFile": str(self.verify.keys),
            }
            return Terms(settings=settings)
        await self._import()
        settings = {"gpg.format": "openpgp", "gpg.program": _program("gpg")}
        return Terms(settings=settings, variables=self._variables)

    @property
    def _variables(self) -> Mapping[str, str]:
        return {"GNUPGHOME": str(self._home)}

    async def _import(self) -> None:
        """A keyring of exactly the keys in the file, made anew when the file is another."""
        content = await to_thread.run_sync(self.verify.keys.read_bytes)
        digest = hashlib.sha256(content).hexdigest()
        if digest == self._imported:
            return
        await to_thread.run_sync(_fresh, self._home)
        argv = [_program("gpg"), "--batch", "--no-tty", "--quiet", "--no-autostart", "--import"]
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(self._home), **self._variables}
        answer = await git_program.run(argv, environment, Terms(deadline=20), content)
        if answer.code != 0:
            raise _untrusted(f"{self.verify.keys} holds no public keys that gpg can read")
        self._imported = digest


def _untrusted(says: str, commit: str | None = None) -> SourceUnavailable:
    return SourceUnavailable(says, reason="SignatureInvalid", revision=commit)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise _untrusted(f"signatures cannot be verified: there is no {name} on this host")
    return found


def _insist_on_keys(keys: Path) -> None:
    """An empty file of keys trusts nobody, and is more likely a mistake."""
    try:
        size = keys.stat().st_size
    except OSError as error:
        raise _untrusted(f"signatures cannot be verified: {keys}: {error.strerror}") from None
    if not 0 < size <= KEYS_BYTES:
        raise _untrusted(f"signatures cannot be verified: {keys} has {size} bytes")


def _fresh(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o700, parents=True)
    (home / "gpg.conf").write_text("trust-model always\nno-auto-key-retrieve\nno-auto-key-import\n")
