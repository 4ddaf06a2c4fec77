"""The files of an agent's identity: for their owner alone, and whole whatever ends the agent in between."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from drivers import strongbox
from drivers.agent.duty import identity
from drivers.agent.duty.identity import Identity, IdentityError, JoinToken
from reconciler.store.records import AgentState
from tests.api.agents.offices import Office, joined, listening, renewed


class Killed(BaseException):
    """What ends a process in the middle of something."""


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Ends whoever makes its n-th step on the disk: before a file is there, or before one is gone."""
    steps: list[str] = []
    put, unlink = strongbox.put, Path.unlink

    def counted(name: str) -> None:
        steps.append(name)
        if len(steps) == step:
            raise Killed(name)

    def putting(path: Path, content: bytes, **more: Any) -> None:
        counted(f"put {path.name}")
        put(path, content, **more)

    def unlinking(path: Path, **more: Any) -> None:
        if path.suffix == ".pem":
            counted(f"unlink {path.name}")
        unlink(path, **more)

    monkeypatch.setattr(strongbox, "put", putting)
    monkeypatch.setattr(Path, "unlink", unlinking)
    return steps


STEPS_OF_A_JOIN = 6  # wanted, signing, sealing, tls, identity, and wanted is gone
STEPS_OF_A_RENEWAL = 5  # wanted, tls, identity, and two are gone


@pytest.mark.parametrize("step", range(1, STEPS_OF_A_JOIN + 1))
async def test_a_join_that_is_ended_anywhere_is_gone_on_with(
    here: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    directory, token = tmp_path / "agent", await here.invited()
    async with listening(here) as url:
        with monkeypatch.context() as patched:
            killed_at(patched, step)
            with pytest.raises(Killed):
                await joined(here, url, directory, token)
        if (directory / "identity.json").exists():
            who = Identity.load(directory)
        else:
            who = await joined(here, url, directory, token)
        assert who.generation == 1
        assert (await renewed(who)).generation == 2
    assert (await here.row()).state is AgentState.ACTIVE


@pytest.mark.parametrize("step", range(1, STEPS_OF_A_RENEWAL + 1))
async def test_a_renewal_that_is_ended_anywhere_leaves_an_identity_that_is_renewed(
    here: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    async with listening(here) as url:
        who = await joined(here, url, tmp_path / "agent")
        with monkeypatch.context() as patched:
            steps = killed_at(patched, step)
            with pytest.raises(Killed):
                await renewed(who)
        assert len(steps) == step
        found = Identity.load(tmp_path / "agent")
        found.tls()
        here.clock.on(hours=1)
        after = await renewed(found)
        assert after.generation in (2, 3)
        assert (await renewed(after)).generation == after.generation + 1
    assert (await here.row()).state is AgentState.ACTIVE
    assert sorted(path.name for path in (tmp_path / "agent").glob("*.pem")) == sorted(
        ["signing.pem", "sealing.pem", Identity.load(tmp_path / "agent").file]
    )


async def test_every_private_file_is_for_its_owner_alone(here: Office, tmp_path: Path) -> None:
    async with listening(here) as url:
        await joined(here, url, tmp_path / "agent")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "agent").iterdir()}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "agent").stat().st_mode) == 0o700


async def test_a_key_that_others_can_read_is_not_used(here: Office, tmp_path: Path) -> None:
    async with listening(here) as url:
        who = await joined(here, url, tmp_path / "agent")
    (who.directory / who.file).chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 0600") as raised:
        who.tls()
    assert raised.value.code == "IDENTITY_EXPOSED"


async def test_the_token_is_not_kept(here: Office, tmp_path: Path) -> None:
    token = await here.invited()
    async with listening(here) as url:
        await joined(here, url, tmp_path / "agent", token)
    for path in (tmp_path / "agent").iterdir():
        assert token.secret.encode() not in path.read_bytes()


async def test_whoever_rejoins_in_the_same_directory_keeps_what_it_signs_with(here: Office, tmp_path: Path) -> None:
    async with listening(here) as url:
        first = await joined(here, url, tmp_path / "agent")
        signing = first.signing.private_bytes_raw()
        second = await joined(here, url, tmp_path / "agent")
    assert (second.generation, second.signing.private_bytes_raw()) == (2, signing)


async def test_a_key_that_was_certified_for_a_lost_token_does_not_block_the_next_one(
    here: Office, tmp_path: Path
) -> None:
    answers: list[str] = []

    async def losing(method: str, path: str, *more: Any) -> Any:
        status, said = await here.enrolment(method, path, *more)
        answers.append(path)
        return (status, said) if len(answers) != 2 else (503, {})

    async with listening(here, losing) as url:
        with pytest.raises(IdentityError):
            await joined(here, url, tmp_path / "agent")
        who = await joined(here, url, tmp_path / "agent")
    assert who.generation == 2


async def test_a_trusted_signer_follows_another(here: Office, tmp_path: Path) -> None:
    async with listening(here) as url:
        who = await joined(here, url, tmp_path / "agent")
        who.trusting(["ab" * 32])
        assert Identity.load(who.directory).signers == ("ab" * 32,)
        assert (await renewed(Identity.load(who.directory))).signers == ("ab" * 32,)


@pytest.mark.parametrize("text", ["", "holdfast-join:", "holdfast_ab_cd", "holdfast-join:x:y:z"])
def test_what_is_no_token_is_said_to_be_none(text: str) -> None:
    with pytest.raises(IdentityError, match="no join token"):
        JoinToken.parse(text)


def test_a_token_does_not_show_its_secret_by_accident() -> None:
    token = JoinToken.made("a" * 64, "b" * 64)
    assert token.secret not in repr(token)
    assert JoinToken.parse(str(token)) == token


def test_without_an_identity_it_says_how_one_is_made(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="holdfast-agent join") as raised:
        Identity.load(tmp_path)
    assert raised.value.code == "NOT_JOINED"


@pytest.mark.parametrize("spoiled", [b"", b"{}", b"[]", b'{"format": "holdfast.identity/v1"}'])
async def test_a_damaged_identity_is_named(here: Office, tmp_path: Path, spoiled: bytes) -> None:
    strongbox.put(tmp_path / "identity.json", spoiled)
    with pytest.raises(IdentityError) as raised:
        Identity.load(tmp_path)
    assert raised.value.code == "IDENTITY_DAMAGED"


async def test_an_identity_that_names_a_file_elsewhere_is_not_followed(here: Office, tmp_path: Path) -> None:
    async with listening(here) as url:
        who = await joined(here, url, tmp_path / "agent")
    said = json.loads((who.directory / "identity.json").read_text()) | {"file": "../../etc/key.pem"}
    strongbox.put(who.directory / "identity.json", json.dumps(said).encode())
    with pytest.raises(IdentityError):
        Identity.load(who.directory)


async def test_a_server_that_is_away_is_passed_by(here: Office, tmp_path: Path) -> None:
    async with listening(here) as url:
        who = await joined(here, url, tmp_path / "agent")
        from dataclasses import replace

        twice = replace(who, servers=("https://127.0.0.1:1", url))
        strongbox.put(who.directory / identity.FILE, identity._text(twice))
        assert (await renewed(twice)).generation == 2


async def test_a_renamed_agent_is_who_its_certificate_says(here: Office, tmp_path: Path) -> None:
    """The name in its file is for the host; who it is, the server takes from the certificate."""
    async with listening(here) as url:
        who = await joined(here, url, tmp_path / "agent")
        shutil.copytree(tmp_path / "agent", tmp_path / "renamed")
        said = json.loads((tmp_path / "renamed" / "identity.json").read_text()) | {"name": "db-1"}
        strongbox.put(tmp_path / "renamed" / "identity.json", json.dumps(said).encode())
        with pytest.raises(IdentityError, match="answered with what web-1 is") as raised:
            await renewed(Identity.load(tmp_path / "renamed"))
        assert raised.value.code == "WRONG_ANSWER"
    assert Identity.load(who.directory).name == "web-1"
