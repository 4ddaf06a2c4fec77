"""The signer as it runs: its own process, keys, socket, memory and log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from api import keys
from api.agents.signing import Signing
from api.cli.main import main
from api.problem import Problem
from api.signer.place import Place
from desired_state.model import DesiredState
from drivers.agent import protocol
from drivers.agent.protocol import Task, Trust, Verb
from drivers.errors import Refused, Unreachable
from stickers.names import AgentName
from stickers.signature import Forged, Keyring, PublicKey, key_id
from tests.api.signer import papers
from tests.api.signer.trees import documents, state, written

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[3]
STARTS = 20.0  # seconds


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return made_at(tmp_path)


def allow(place: Place, uid: int, tree: Path, verbs: str = "trust") -> None:
    text = papers.POLICY.format(documents=f"documents: {{directory: {tree}}}", verbs=verbs, more="")
    place.policy.write_text(text.replace("users: [0]", f"users: [{uid}]").replace("per_minute: 3", "per_minute: 100"))


@contextmanager
def running(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    words = ["signer", "run", "--directory", str(place.directory)]
    environment = {**os.environ, "HOLDFAST_LOG_FORMAT": "json"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen([sys.executable, "-m", "api.cli.main", *words], cwd=ROOT, env=environment)
    try:
        until = time.monotonic() + STARTS
        while not place.socket.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        assert place.socket.exists()
        yield process
    finally:
        process.terminate()
        process.wait(10)


def made_at(directory: Path) -> Place:
    made = Place(directory / "signer")
    made.init()
    allow(made, os.getuid(), directory / "tree")
    written(directory / "tree", documents())
    return made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One signer for all tests that leave it as it was."""
    made = made_at(tmp_path_factory.mktemp("served"))
    with running(made):
        yield made


@pytest.fixture
async def signing(served: Place) -> AsyncIterator[Signing]:
    made = Signing(served.socket)
    yield made
    await made.aclose()


def task_of(said: DesiredState, **changes: object) -> tuple[Task, str]:
    """A deployment of what the documents declare."""
    one = said.placements[0]
    work = papers.action(papers.deploy(one), target=said.targets[0])
    task, body = papers.asked(work)
    return replace(task, **changes), body  # type: ignore[arg-type]


def trusted(place: Place) -> Keyring:
    public = bytes.fromhex(place.public.read_text().split()[0])
    return Keyring([PublicKey(id=key_id(public), public=public, subjects=("task:*",))])


async def test_it_signs_what_is_declared_and_an_agent_believes_it(served: Place, signing: Signing) -> None:
    task, body = task_of(state(documents()))
    first = protocol.task(await signing(task, body), trusted(served))
    assert first == replace(task, sequence=first.sequence)
    assert protocol.task(await signing(task, body), trusted(served)).sequence == first.sequence + 1


async def test_a_server_that_asks_for_an_undeclared_image_gets_nothing(served: Place, signing: Signing) -> None:
    task, body = task_of(state(documents("evil")))
    with pytest.raises(Refused, match=r"the signer refused \(UNDECLARED\): default/web-1/api is not"):
        await signing(task, body)


async def test_what_is_declared_now_is_signed_as_soon_as_it_may_be_read_again(served: Place, signing: Signing) -> None:
    task, body = task_of(state(documents("2")))
    written(served.directory.parent / "tree", documents("2"))
    with anyio.fail_after(30):
        while True:
            with contextlib.suppress(Refused):  # it does not read them more than once a second
                envelope = await signing(task, body)
                break
            await anyio.sleep(0.1)
    assert protocol.task(envelope, trusted(served)).key == task.key


async def test_what_the_server_signs_with_its_own_key_is_forged(place: Place, tmp_path: Path) -> None:
    keys.init(tmp_path / "server", subjects=(*keys.EVERYTHING, "task:*"))
    task, _ = task_of(state(documents()))
    with pytest.raises(Forged, match="nobody here knows"):
        protocol.task(protocol.sealed(task, keys.load_signer(tmp_path / "server").sign), trusted(place))


async def test_sequence_fences_and_memory_outlive_it(place: Place, tmp_path: Path) -> None:
    task, body = task_of(state(documents()))
    with running(place):
        first = Signing(place.socket)
        await first(task, body)
        await first.aclose()
    written(tmp_path / "tree", documents("2"))
    with running(place):
        second = Signing(place.socket)
        assert protocol.task(await second(task, body), trusted(place)).sequence == 2
        lower = papers.action(papers.deploy(state(documents()).placements[0]), target=state(documents()).targets[0])
        stale, stale_body = papers.asked(replace(lower, fence=4), fence=4)
        with pytest.raises(Refused, match="STALE_FENCE"):
            await second(stale, stale_body)
        await second.aclose()


async def test_it_ends_at_sigterm_and_takes_its_socket_along(place: Place) -> None:
    with running(place) as process:
        signing = Signing(place.socket)
        await signing(*task_of(state(documents())))
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert not place.socket.exists()
        with pytest.raises(Unreachable, match="cannot be reached"):
            await signing(*task_of(state(documents())))


async def test_a_signer_that_was_started_again_is_reached_over_a_new_connection(place: Place) -> None:
    signing = Signing(place.socket)
    for _ in range(2):
        with running(place):
            await signing(*task_of(state(documents())))
    await signing.aclose()


async def test_a_signer_that_says_nothing_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.agents.signing.WITHIN", 0.2)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "s"))
        mute.listen()
        with pytest.raises(Unreachable, match="did not answer within"):
            async with aclosing(Signing(tmp_path / "s")) as signing:
                await signing(*papers.asked())


async def test_a_stranger_is_told_so_and_nothing_more(place: Place, tmp_path: Path) -> None:
    allow(place, os.getuid() + 1, tmp_path / "tree")
    with running(place), pytest.raises(Refused, match=f"uid {os.getuid()} may not ask this signer"):
        async with aclosing(Signing(place.socket)) as signing:
            await signing(*task_of(state(documents())))


async def test_its_socket_and_keys_are_not_for_everybody(served: Place, signing: Signing) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in served.directory.iterdir()}
    assert modes["signer.sock"] == 0o660
    assert modes["keys"] == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in served.keys.glob("*.pem")} == {0o600}


async def test_a_line_that_is_no_task_is_answered_so(served: Place, signing: Signing) -> None:
    reader, writer = await asyncio.open_unix_connection(str(served.socket))
    for line in (b"", b"[]", b'{"task": "{}", "body": ""}', b"\xff\xfe", b'{"task": 1}'):
        writer.write(line + b"\n")
        await writer.drain()
        assert json.loads(await reader.readline())["code"] == "MALFORMED"
    writer.close()


async def test_a_second_signer_does_not_run_from_the_same_directory(served: Place, signing: Signing) -> None:
    words = [sys.executable, "-m", "api.cli.main", "signer", "run", "--directory", str(served.directory)]
    with anyio.fail_after(STARTS):
        ended = await anyio.run_process(words, cwd=ROOT, check=False)
    assert ended.returncode == 2
    assert b"another process signs" in ended.stderr


async def test_the_log_shows_who_asked_for_what_and_that_it_is_whole(
    served: Place, signing: Signing, capsys: pytest.CaptureFixture[str]
) -> None:
    await signing(*task_of(state(documents())))
    with pytest.raises(Refused):
        await signing(*task_of(state(documents()), agent=AgentName("db-1")))
    at = ["--directory", str(served.directory)]
    assert main(["signer", "log", "--output", "json", *at]) == 0
    said = json.loads(capsys.readouterr().out)["lines"]
    assert [(line["outcome"], line.get("asked_by")) for line in said[-2:]] == [
        ("signed", os.getuid()),
        ("refused", os.getuid()),
    ]
    assert main(["signer", "log", "--verify", *at]) == 0
    assert f"whole: {len(said)} lines" in capsys.readouterr().out


async def test_a_rotation_has_the_former_key_vouch_for_the_new_one(place: Place) -> None:
    before = trusted(place)
    new = place.rotate()
    assert place.public.read_text().split()[1] == new.public.hex()
    trust, body = papers.asked(Trust(public=new.public.hex(), overlap=60), verb=Verb.TRUST)
    with running(place):
        signing = Signing(place.socket)
        assert protocol.task(await signing(trust, body), before).verb is Verb.TRUST
        await signing.aclose()
    place.finish()
    assert place.signer().key.id == new.id
    assert place.public.read_text().split() == [new.public.hex()]


def test_a_rotation_that_was_cut_off_between_two_names_is_finished(place: Place) -> None:
    new = place.rotate()
    os.rename(place.keys, place.directory / "former-x")
    assert place.signer().key.id == new.id
    assert place.public.read_text().split() == [new.public.hex()]
    assert not list(place.directory.glob("former-*"))


def test_a_second_rotation_waits_for_the_first(place: Place) -> None:
    place.rotate()
    with pytest.raises(Problem, match="--finish"):
        place.rotate()


def test_a_dry_run_says_which_rule_lets_it(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    about = ["--agent", "web-1", "--target", "web-1", "--environment", "staging", "--directory", str(place.directory)]
    deploy = ["signer", "check", "--verb", "deploy", *about, "--repository"]
    assert main([*deploy, "registry.example.com/shop/api"]) == 0
    assert capsys.readouterr().out == "yes, by rule staging\n"
    assert main([*deploy, "evil.example.com/api"]) == 1
    assert "nothing of evil.example.com/api is deployed" in capsys.readouterr().out
    assert main(["signer", "check", "--directory", str(place.directory)]) == 0
    assert "nothing is signed that is not declared" in capsys.readouterr().out


def test_it_loads_neither_store_nor_server() -> None:
    heavy = ("sqlalchemy", "psycopg", "alembic", "fastapi", "starlette", "uvicorn", "jinja2", "reconciler", "docker")
    code = (
        "import sys, api.signer.process, api.cli.signer, drivers.process.connection; "
        f"print([name for name in sys.modules if name.partition('.')[0] in {heavy}])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
