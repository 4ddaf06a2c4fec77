"""Secrets of Vault: against a contract server always, and against a real one where VAULT_ADDR says there is one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import pytest

from desired_state.secrets import SecretRef
from drivers.errors import DriverError, Refused, Unreachable
from drivers.secrets import fields
from drivers.secrets.vault import Vault
from tests.drivers.docker import certificates
from tests.drivers.secrets.vault import ROOT, Contract, Real

CANARY = "c4nary-of-the-mine"
PATH = "vault:kv/shop/prod#password"

Read = Callable[..., Awaitable[str]]


@pytest.fixture
def contract() -> Iterator[Contract]:
    server = Contract()
    yield server
    server.close()


@pytest.fixture(params=["contract", "real"])
def vault(request: pytest.FixtureRequest) -> Iterator[Contract | Real]:
    if request.param == "real" and "VAULT_ADDR" not in os.environ:
        pytest.skip("VAULT_ADDR is not set: there is no real Vault to ask")
    server = Real(os.environ) if request.param == "real" else Contract()
    yield server
    server.close()


@pytest.fixture
async def read() -> AsyncIterator[Read]:
    """Reads a secret through one backend for each environment, as a daemon would."""
    made: dict[tuple[tuple[str, str], ...], Vault] = {}
    hidden: list[str] = []

    async def read(environ: dict[str, str], reference: str = PATH, version: str | None = None) -> str:
        backend = made.setdefault(tuple(sorted(environ.items())), Vault(hidden.append, environ))
        secret = SecretRef(reference=reference, version=version)
        return fields.value(await backend.read(secret), secret)

    read.hidden = hidden  # type: ignore[attr-defined]
    yield read
    for backend in made.values():
        await backend.aclose()


async def refusal(read: Read, kind: type[DriverError], environ: dict[str, str], *said: str) -> str:
    with pytest.raises(kind) as caught:
        await read(environ, *said)
    text = str(caught.value)
    assert text.startswith(f"secret {said[0] if said else PATH}: ")
    assert CANARY not in text
    assert ROOT not in text
    return text


async def test_a_field_of_the_latest_version_is_read(vault: Contract | Real, read: Read) -> None:
    vault.put("shop/prod", {"password": "old"})
    vault.put("shop/prod", {"user": "me", "password": CANARY})
    assert await read(vault.environ) == CANARY


async def test_a_declared_version_is_the_one_that_is_read(vault: Contract | Real, read: Read) -> None:
    vault.put("shop/prod", {"password": CANARY})
    vault.put("shop/prod", {"password": "new"})
    assert await read(vault.environ, PATH, "1") == CANARY
    assert "not in version 3" in await refusal(read, Refused, vault.environ, PATH, "3")


async def test_what_is_not_there_is_refused(vault: Contract | Real, read: Read) -> None:
    vault.put("shop/prod", {"password": CANARY})
    assert "nothing at this path" in await refusal(read, Refused, vault.environ, "vault:kv/shop/none#password")
    assert "no field 'user'" in await refusal(read, Refused, vault.environ, "vault:kv/shop/prod#user")


async def test_a_deleted_and_a_destroyed_version_are_told_apart(vault: Contract | Real, read: Read) -> None:
    vault.put("shop/prod", {"password": CANARY})
    vault.put("shop/prod", {"password": CANARY})
    vault.destroy("shop/prod", 1)
    vault.delete("shop/prod")
    assert "version 1 has been destroyed" in await refusal(read, Refused, vault.environ, PATH, "1")
    assert "latest version has been deleted" in await refusal(read, Refused, vault.environ)


async def test_a_token_that_may_not_read_is_refused(vault: Contract | Real, read: Read) -> None:
    vault.put("shop/prod", {"password": CANARY})
    said = await refusal(read, Refused, vault.environ | {"VAULT_TOKEN": "hvs.nobodys"})
    assert "says no (403)" in said
    assert "read on kv/data/shop/prod" in said
    assert "nobodys" not in said


async def test_a_role_logs_in(vault: Contract | Real, read: Read) -> None:
    vault.put("shop/prod", {"password": CANARY})
    environ = {name: value for name, value in vault.environ.items() if name != "VAULT_TOKEN"} | vault.role()
    assert await read(environ) == CANARY
    wrong = environ | {"VAULT_SECRET_ID": "none"}
    assert "does not let the role in" in await refusal(read, Refused, wrong)


async def test_a_hundred_secrets_at_once_log_in_once(contract: Contract, read: Read) -> None:
    contract.put("shop/prod", {"password": CANARY})
    environ = {"VAULT_ADDR": contract.address} | contract.role()
    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(read, environ)
    assert contract.state.logins == 1


async def test_a_worn_lease_logs_in_anew(contract: Contract, read: Read) -> None:
    contract.put("shop/prod", {"password": CANARY})
    contract.state.lease = 1
    environ = {"VAULT_ADDR": contract.address} | contract.role()
    await read(environ)
    await anyio.sleep(0.9)
    await read(environ)
    assert contract.state.logins == 2


async def test_a_revoked_token_of_a_role_logs_in_anew_once(contract: Contract, read: Read) -> None:
    contract.put("shop/prod", {"password": CANARY})
    environ = {"VAULT_ADDR": contract.address} | contract.role()
    await read(environ)
    contract.state.tokens.clear()
    assert await read(environ) == CANARY
    assert contract.state.logins == 2


async def test_a_namespace_is_sent(contract: Contract, read: Read) -> None:
    contract.put("shop/prod", {"password": CANARY})
    contract.state.namespace = "team-a"
    assert await read(contract.environ | {"VAULT_NAMESPACE": "team-a"}) == CANARY
    assert "(403)" in await refusal(read, Refused, contract.environ)


async def test_a_token_file_is_read_anew_each_time(contract: Contract, read: Read, tmp_path: Path) -> None:
    contract.put("shop/prod", {"password": CANARY})
    file = tmp_path / "token"
    file.write_text("hvs.old\n")
    environ = {"VAULT_ADDR": contract.address, "VAULT_TOKEN_FILE": str(file)}
    await refusal(read, Refused, environ)
    file.write_text(ROOT + "\n")
    assert await read(environ) == CANARY


async def test_the_token_that_vaults_own_login_leaves_is_found(contract: Contract, read: Read, tmp_path: Path) -> None:
    contract.put("shop/prod", {"password": CANARY})
    (tmp_path / ".vault-token").write_text(ROOT)
    assert await read({"VAULT_ADDR": contract.address, "HOME": str(tmp_path)}) == CANARY


async def test_whatever_says_who_we_are_is_hidden(contract: Contract, read: Read) -> None:
    contract.put("shop/prod", {"password": CANARY})
    role = contract.role()
    await read(contract.environ)
    await read({"VAULT_ADDR": contract.address} | role)
    assert {ROOT, role["VAULT_SECRET_ID"], *contract.state.tokens} <= set(read.hidden)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (503, Unreachable, "sealed"),
        (429, Unreachable, "too many requests, or is a standby"),
        (472, Unreachable, "standby (472)"),
        (473, Unreachable, "standby (473)"),
        (412, Unreachable, "has not caught up"),
        (500, Unreachable, "no active node"),
        (502, Unreachable, "cannot answer now"),
        (400, Refused, "VAULT_NAMESPACE"),
    ],
)
async def test_every_other_answer_is_its_own_error(
    contract: Contract, read: Read, status: int, kind: type[DriverError], said: str
) -> None:
    contract.state.instead = (status, {}, f'{{"errors": ["{CANARY}"]}}'.encode())
    assert said in await refusal(read, kind, contract.environ)


async def test_no_token_follows_a_standby_elsewhere(contract: Contract, read: Read) -> None:
    other = Contract()
    try:
        contract.state.instead = (307, {"location": f"{other.address}/v1/kv/data/shop/prod"}, b"")
        assert "set VAULT_ADDR to the active node" in await refusal(read, Unreachable, contract.environ)
        assert other.state.asked == []
    finally:
        other.close()


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[]", b'{"data": {"password": "x"}}', b"", b"{" * 50_000])
async def test_what_is_no_vault_is_refused(contract: Contract, read: Read, body: bytes) -> None:
    contract.state.instead = (200, {}, body)
    assert "no key-value store of version 2" in await refusal(read, Refused, contract.environ)


async def test_an_answer_without_end_is_not_read_to_its_end(contract: Contract, read: Read) -> None:
    contract.state.instead = (200, {}, b" " * (2 * 1024 * 1024))
    assert "more than 1048576 bytes" in await refusal(read, Refused, contract.environ)


async def test_nothing_listens_there(read: Read) -> None:
    server = Contract()
    server.close()
    assert "does not answer" in await refusal(read, Unreachable, server.environ)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "VAULT_ADDR is not set"),
        ({"VAULT_ADDR": "http://vault.example.com:8200"}, "not https"),
        ({"VAULT_ADDR": "https://me:pw@vault.example.com"}, "no plain address"),
        ({"VAULT_ADDR": "vault.example.com:8200"}, "VAULT_ADDR is no"),
        ({"VAULT_ADDR": "https://vault.example.com"}, "no VAULT_TOKEN, VAULT_TOKEN_FILE or VAULT_ROLE_ID"),
        ({"VAULT_ADDR": "https://vault.example.com", "VAULT_ROLE_ID": "r"}, "neither VAULT_SECRET_ID nor"),
        ({"VAULT_ADDR": "https://vault.example.com", "VAULT_TOKEN_FILE": "/nowhere/token"}, "No such file"),
        ({"VAULT_ADDR": "https://vault.example.com", "VAULT_TOKEN": "two words"}, "no single word"),
        (
            {"VAULT_ADDR": "https://127.0.0.1:1", "VAULT_TOKEN": "t", "VAULT_CACERT": "/nowhere/ca.pem"},
            "no readable file of certificates",
        ),
    ],
)
async def test_what_is_missing_is_named(read: Read, environ: dict[str, str], said: str) -> None:
    assert said in await refusal(read, Refused, environ)


async def test_the_certificate_is_checked_and_an_own_authority_can_be_named(read: Read, tmp_path: Path) -> None:
    certificates.write(tmp_path)
    server = Contract((str(tmp_path / "engine.pem"), str(tmp_path / "engine-key.pem")))
    try:
        server.put("shop/prod", {"password": CANARY})
        assert "not trusted" in await refusal(read, Refused, server.environ | {"VAULT_SKIP_VERIFY": "true"})
        assert server.state.asked == []
        assert await read(server.environ | {"VAULT_CACERT": str(tmp_path / "ca.pem")}) == CANARY
    finally:
        server.close()


async def test_a_path_is_sent_as_it_is_declared(contract: Contract, read: Read) -> None:
    contract.put("shop/größe+eins", {"password": CANARY})
    assert await read(contract.environ, "vault:kv/shop/größe+eins#password") == CANARY


async def test_one_connection_is_kept(contract: Contract, read: Read) -> None:
    contract.put("shop/prod", {"password": CANARY})
    for _ in range(3):
        await read(contract.environ)
    assert len(contract.state.asked) == 3
    assert contract.state.connections == 1
