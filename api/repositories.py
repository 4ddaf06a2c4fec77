"""A declared git source as the clone that reads it, with its credentials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from desired_state.secrets import Resolve, SecretRef
from desired_state.sources import declared
from desired_state.sources.base import SourceUnavailable
from desired_state.sources.git import Git, Repository, Secret
from desired_state.sources.git_trust import Verify
from drivers.errors import DriverError

if TYPE_CHECKING:
    from desired_state.schema import SecretReference


def clone(said: declared.GitSource, place: Path, secret: Resolve) -> Git:
    """`place` is a directory of its own."""
    return Git(_repository(said), place, _value(said.credentials, secret) if said.credentials else None)


def reference(said: SecretReference) -> SecretRef:
    return SecretRef(reference=said.secret, version=said.version)


def _repository(said: declared.GitSource) -> Repository:
    return Repository(
        url=said.repository,
        ref=said.ref,
        path=said.path,
        username=said.username,
        deadline=said.deadline.total_seconds(),
        size=said.size,
        ca=Path(said.ca) if said.ca else None,
        known_hosts=Path(said.known_hosts) if said.known_hosts else None,
        rewrites=said.history == "any",
        verify=_verify(said.verify) if said.verify else None,
    )


def _verify(said: declared.Verified) -> Verify:
    if said.ssh is not None:
        return Verify(method="ssh", keys=Path(said.ssh), commits=said.commits)
    assert said.gpg is not None
    return Verify(method="gpg", keys=Path(said.gpg), commits=said.commits)


def _value(said: SecretReference, secret: Resolve) -> Secret:
    async def told() -> str:
        try:
            return await secret(reference(said))
        except DriverError as error:
            raise SourceUnavailable(str(error), reason="CredentialsUnavailable") from None

    return told
