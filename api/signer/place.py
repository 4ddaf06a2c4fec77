"""The signer's directory: keys, policy, what it remembers, and its socket. Whoever can write here decides what is
signed.

    keys/           the key that signs; `next/` the one that follows, while a rotation is under way
    public          public keys in hex, the one that signs first: for servers, which pin it in the tokens agents join by
    policy.yaml     what may be signed
    declared.jsonl  what was ever declared
    ledger/         everything that was signed or refused
    signer.sock     where it is asked
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from api import keys
from api.problem import Problem
from api.signer import appended
from stickers.signature import PublicKey, Signer, Statement

SUBJECTS: Final = (f"{Statement.TASK}:*",)

STARTER: Final = """\
# What this signer may sign. `holdfast signer check` says what is wrong with it. It is read when the signer starts.
apiVersion: holdfast/v1
kind: SignerPolicy

# Who may ask: users by name or number, as the kernel names whoever is at the other end of the socket. The server, and
# never the user that the signer runs as: whoever has both has the key.
ask: {users: [holdfast]}

# With documents, nothing is signed that is not declared there, or was: a server that was broken into deploys nothing
# of its own. The signer reads them itself, so they must not be what the server can write.
documents: {directory: /etc/holdfast/documents}
# documents: {sources: /etc/holdfast-signer/sources.yaml}   # git, as the server's file of sources says it

# A task is signed if one rule lets it.
rules:
  - name: staging
    environments: [default/staging]
    verbs: [deploy, rollback, write-sticker, inspect, health-check, read-sticker, read-log, examine]
    # agents: [web-*]
    # targets: [default/web-*]
    # repositories: ["registry.example.com/shop/*"]
    # per_minute: 60
    # commands: [collect-logs]         # with the verb execute-command
    # uploads: [certificates]          # with the verb upload-files
    # hold: 24h                        # with the verb hold
"""


@dataclass(frozen=True, slots=True)
class Place:
    directory: Path

    @property
    def keys(self) -> Path:
        return self.directory / "keys"

    @property
    def next(self) -> Path:
        return self.directory / "next"

    @property
    def public(self) -> Path:
        return self.directory / "public"

    @property
    def policy(self) -> Path:
        return self.directory / "policy.yaml"

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger"

    @property
    def socket(self) -> Path:
        return self.directory / "signer.sock"

    def init(self) -> PublicKey:
        """The first key, and a policy to begin with. Nothing is overwritten."""
        self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        key = keys.init(self.keys, subjects=SUBJECTS)
        self._publish()
        if not self.policy.exists():
            self.policy.write_text(STARTER)
        return key

    def rotate(self) -> PublicKey:
        """The key that is to follow. The former one signs until `finish`, and tells agents to trust the new one."""
        keys.load_signer(self.keys)
        if self.next.exists():
            raise Problem("ROTATING", f"{self.next} holds a key that is to follow already; --finish has it sign")
        key = keys.init(self.next, subjects=SUBJECTS)
        self._publish()
        return key

    def finish(self) -> PublicKey:
        """The key that follows signs from now on, and the former one is gone."""
        if not self.next.exists():
            raise Problem("NOT_ROTATING", "no key is to follow; `holdfast signer rotate` makes one")
        key = keys.load_signer(self.next).key
        former = self.directory / f"former-{key.id}"
        os.rename(self.keys, former)
        os.rename(self.next, self.keys)
        appended.settle(self.directory)
        self._tidy()
        return key

    def signer(self) -> Signer:
        """The key that signs. A rotation that was cut off anywhere is finished first."""
        if not self.keys.exists() and self.next.exists():
            os.rename(self.next, self.keys)
        self._tidy()
        return keys.load_signer(self.keys)

    def next_key(self) -> str | None:
        return keys.load_signer(self.next).key.public.hex() if self.next.exists() else None

    def _tidy(self) -> None:
        """No former key is left, and what is said of the others is so."""
        for former in self.directory.glob("former-*"):
            shutil.rmtree(former)
        self._publish()

    def _publish(self) -> None:
        """For everybody to read: they are public."""
        public = [keys.load_signer(self.keys).key.public.hex(), self.next_key()]
        text = "".join(f"{key}\n" for key in public if key)
        beside = self.public.with_suffix(".new")
        beside.write_text(text)
        beside.chmod(0o644)
        os.replace(beside, self.public)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """For one process alone."""
        if not self.keys.exists() and not self.next.exists():
            raise Problem("NO_KEYS", f"{self.directory} holds no keys; `holdfast signer init` makes the first one")
        handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._insist_on_mode(os.fstat(handle).st_mode)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise Problem("SIGNER_RUNS", f"another process signs from {self.directory}") from None
        finally:
            os.close(handle)

    def _insist_on_mode(self, mode: int) -> None:
        if mode & 0o022:
            wanted = stat.S_IMODE(mode) & ~0o022
            raise Problem("KEYS_EXPOSED", f"{self.directory} can be changed by others; chmod {wanted:04o} it")
