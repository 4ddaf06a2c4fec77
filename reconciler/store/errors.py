"""What can go wrong at the store. Errors of the database and of its drivers are translated into these in `store.py`.

StoreError
  Locked            another process holds the embedded store
  NewerSchema       a newer Holdfast has written this store; this one must not touch it
  Unavailable       the database does not answer, or refuses for a reason of its own; nothing was written
  CommitUnknown     the connection was lost while committing: it may or may not have happened, look before acting
  Violated          the database refused what the schema forbids: a programming error, or a race that it decided
  Corrupt           what is stored does not read as what it should be; never guessed around
  LostLease         the lease that the write was made under is somebody else's by now: stop
  Stale             the row has changed since it was read: read again
  JobActive         the environment has an active job already
  JobOver           the job has ended, nothing can be asked of it any more
  ReleaseDiffers    a release of that name is kept already, with other content
  Missing           what the write needs is not there
"""

from __future__ import annotations

from typing import ClassVar

from stickers.names import Digest, EnvironmentId, JobId, ReleaseName


class StoreError(Exception):
    """One sentence for people, and a stable `code` for programs."""

    code: ClassVar[str] = "STORE_ERROR"


class Locked(StoreError):
    code = "STORE_LOCKED"


class NewerSchema(StoreError):
    code = "NEWER_SCHEMA"


class Unavailable(StoreError):
    code = "STORE_UNAVAILABLE"


class CommitUnknown(StoreError):
    code = "COMMIT_UNKNOWN"


class Violated(StoreError):
    code = "VIOLATED"


class Corrupt(StoreError):
    code = "CORRUPT"


class LostLease(StoreError):
    code = "LOST_LEASE"


class Stale(StoreError):
    code = "STALE"


class Missing(StoreError):
    code = "MISSING"


class JobOver(StoreError):
    code = "JOB_OVER"


class JobActive(StoreError):
    """Names the holder, so that whoever asked can be told what to wait for."""

    code = "JOB_ACTIVE"

    def __init__(self, environment: EnvironmentId, job: JobId) -> None:
        super().__init__(f"{environment} is busy with job {job}")
        self.environment, self.job = environment, job


class ReleaseDiffers(StoreError):
    code = "RELEASE_DIFFERS"

    def __init__(self, name: ReleaseName, kept: Digest, offered: Digest) -> None:
        super().__init__(f"release {name} is kept as {kept}, and {offered} is offered; a release never changes")
        self.name, self.kept, self.offered = name, kept, offered
