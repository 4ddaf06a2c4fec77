"""Logins at a provider: what a right one does, and everything wrong that ends one."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from api.house import House
from api.people import oidc
from api.people.doorkeeper import Doorkeeper
from api.settings import BadSetting, Settings
from reconciler.store import people
from tests.api.people.conftest import HERE, Clock, asked, browser
from tests.api.people.provider import Claims, Provider, edwards, elliptic, rsa, serving, shared

PROBE = "/probe/shop/staging"


@pytest.fixture(scope="module")
def key() -> object:
    return rsa()


@pytest.fixture
def provider(key: object, clock: Clock) -> Iterator[Provider]:
    with serving(Provider(keys=[key], now=lambda: clock().timestamp())) as made:
        yield made


@pytest.fixture
async def here(house: House, provider: Provider, tmp_path: Path) -> House:
    """A house where the provider is configured, and one of its groups may operate."""
    (tmp_path / "client").write_text("s3cret\n")
    await asked(house, "user_grant", name="group:platform", what="operator", place="shop/*")
    return replace(
        house,
        settings=replace(
            house.settings,
            public_url=HERE,
            oidc_issuer=provider.issuer,
            oidc_client_id="holdfast",
            oidc_client_secret_file=str(tmp_path / "client"),
        ),
    )


@pytest.fixture
async def known(here: House) -> AsyncIterator[Doorkeeper]:
    made = Doorkeeper(here)
    yield made
    await made.aclose()


async def log_in(
    client: httpx2.AsyncClient, provider: Provider, edit: Callable[[dict[str, str]], object] = lambda said: None
) -> httpx2.Response:
    """As a browser does: to the provider and back, with `edit` done to what it comes back with."""
    sent = await client.get("/login/oidc")
    assert sent.status_code == 303, sent.text
    back = urlsplit(provider.authorised(sent.headers["location"]))
    said = {name: values[0] for name, values in parse_qs(back.query).items()}
    edit(said)
    return await client.get(f"{back.path}?{urlencode(said)}")


async def test_who_is_vouched_for_is_let_in_with_what_their_groups_are_granted(
    here: House, known: Doorkeeper, provider: Provider
) -> None:
    async with browser(here, known) as client:
        answer = await log_in(client, provider)
        assert answer.status_code == 200
        assert "http-equiv" in answer.text  # a redirect would leave the strict cookie behind
        assert (await client.get(PROBE)).json() == {"actor": "ada@127.0.0.1"}
        assert (await client.get("/probe/other/x")).status_code == 403


async def test_the_next_login_is_the_same_persons(here: House, known: Doorkeeper, provider: Provider) -> None:
    async with browser(here, known) as client:
        await log_in(client, provider)
        provider.claims |= {"preferred_username": "renamed"}
        await log_in(client, provider)
        assert (await client.get(PROBE)).json() == {"actor": "ada@127.0.0.1"}
    assert len(await here.store.read(people.all)) == 1


async def test_two_who_are_called_alike_are_two(here: House, known: Doorkeeper, provider: Provider) -> None:
    async with browser(here, known) as client:
        await log_in(client, provider)
        provider.claims |= {"sub": "u-2"}
        await log_in(client, provider)
        assert (await client.get(PROBE)).json()["actor"].startswith("ada@127.0.0.1-")


@pytest.mark.parametrize("groups", [[], ["strangers"]])
async def test_without_a_group_that_something_is_granted_to_nobody_is_let_in(
    here: House, known: Doorkeeper, provider: Provider, groups: list[str]
) -> None:
    provider.claims |= {"groups": groups}
    async with browser(here, known) as client:
        assert (await log_in(client, provider)).status_code == 403
        assert (await client.get(PROBE)).status_code == 401
    assert await here.store.read(people.all) == ()


@pytest.mark.parametrize("groups", [[], ["strangers"]])
async def test_who_has_lost_their_groups_is_let_in_nowhere_any_more(
    here: House, known: Doorkeeper, provider: Provider, groups: list[str]
) -> None:
    async with browser(here, known) as elsewhere, browser(here, known) as client:
        await log_in(elsewhere, provider)
        await asked(here, "user_grant", name="ada@127.0.0.1", what="viewer")
        await log_in(elsewhere, provider)
        provider.claims |= {"groups": groups}
        answer = await log_in(client, provider)
        assert answer.status_code == (403 if not groups else 200)  # what is granted to oneself needs some group too
        assert (await elsewhere.get(PROBE)).status_code == 401


async def test_sessions_end_when_a_group_is_granted_something_else(
    here: House, known: Doorkeeper, provider: Provider
) -> None:
    async with browser(here, known) as client:
        await log_in(client, provider)
        await asked(here, "user_revoke", name="group:platform", what="operator", place="shop/*")
        assert (await client.get(PROBE)).status_code == 401


async def test_a_disabled_person_is_not_let_in_by_the_provider_either(
    here: House, known: Doorkeeper, provider: Provider
) -> None:
    async with browser(here, known) as client:
        await log_in(client, provider)
        await asked(here, "user_disable", name="ada@127.0.0.1")
        assert (await log_in(client, provider)).status_code == 403


WRONG: dict[str, Callable[[Claims], object]] = {
    "another issuer": lambda claims: claims.update(iss="https://evil.example"),
    "no issuer": lambda claims: claims.pop("iss"),
    "another audience": lambda claims: claims.update(aud="another"),
    "an audience that begins alike": lambda claims: claims.update(aud="holdfast-2"),
    "no audience": lambda claims: claims.pop("aud"),
    "an empty audience": lambda claims: claims.update(aud=[]),
    "two audiences and no azp": lambda claims: claims.update(aud=["holdfast", "another"]),
    "another azp": lambda claims: claims.update(azp="another"),
    "another azp of two audiences": lambda claims: claims.update(aud=["holdfast", "another"], azp="another"),
    "expired": lambda claims: claims.update(exp=claims["exp"] - 400),
    "no end": lambda claims: claims.pop("exp"),
    "an end that is no number": lambda claims: claims.update(exp="never"),
    "from the future": lambda claims: claims.update(iat=claims["iat"] + 3600),
    "another nonce": lambda claims: claims.update(nonce="x"),
    "no nonce": lambda claims: claims.pop("nonce"),
    "no subject": lambda claims: claims.pop("sub"),
    "an empty subject": lambda claims: claims.update(sub=""),
    "a subject that is a number": lambda claims: claims.update(sub=1),
    "groups missing": lambda claims: claims.pop("groups"),
    "groups as a text": lambda claims: claims.update(groups="platform"),
    "groups with a number": lambda claims: claims.update(groups=["platform", 1]),
    "groups as an object": lambda claims: claims.update(groups={"platform": True}),
    "too many groups": lambda claims: claims.update(groups=[f"g{n}" for n in range(300)]),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_not_right_about_a_token_ends_the_login(
    here: House, known: Doorkeeper, provider: Provider, wrong: str
) -> None:
    provider.change = WRONG[wrong]
    async with browser(here, known) as client:
        answer = await log_in(client, provider)
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")
        assert (await client.get(PROBE)).status_code == 401


async def test_an_azp_that_is_ours_is_right(here: House, known: Doorkeeper, provider: Provider) -> None:
    provider.change = lambda claims: claims.update(aud=["another", "holdfast"], azp="holdfast")
    async with browser(here, known) as client:
        assert (await log_in(client, provider)).status_code == 200


@pytest.mark.parametrize(("algorithm", "made"), [("ES256", elliptic), ("Ed25519", edwards), ("PS256", rsa)])
async def test_other_signatures_that_are_listed_are_believed(
    here: House, known: Doorkeeper, provider: Provider, algorithm: str, made: Callable[[], object]
) -> None:
    provider.algorithm, provider.keys = algorithm, [made()]
    async with browser(here, known) as client:
        assert (await log_in(client, provider)).status_code == 200


async def test_a_token_signed_with_the_clients_secret_or_the_public_key_as_one_is_refused(
    here: House, known: Doorkeeper, provider: Provider, key: object
) -> None:
    public = key.as_pem(private=False).decode()  # type: ignore[attr-defined]
    for secret in ("s3cret" * 8, public):
        try:
            forged = shared(secret, key.kid)  # type: ignore[attr-defined]
        except ValueError:
            continue  # the library itself takes no public key for a shared secret
        provider.algorithm, provider.keys, provider.shown = "HS256", [forged], [key]
        async with browser(here, known) as client:
            assert (await log_in(client, provider)).status_code == 401


async def test_an_unsigned_token_is_refused(here: House, known: Doorkeeper, provider: Provider, clock: Clock) -> None:
    now = int(clock().timestamp())
    claims = {
        "iss": provider.issuer,
        "aud": "holdfast",
        "sub": "u-1",
        "groups": ["platform"],
        "iat": now,
        "exp": now + 9,
    }
    parts = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in ({"alg": "none"}, claims)]
    provider.answer = json.dumps({"id_token": b".".join([*parts, b""]).decode()}).encode()
    async with browser(here, known) as client:
        assert (await log_in(client, provider)).status_code == 401


async def test_a_key_that_the_provider_does_not_publish_is_not_believed(
    here: House, known: Doorkeeper, provider: Provider, key: object
) -> None:
    provider.keys, provider.shown = [rsa()], [key]
    async with browser(here, known) as client:
        assert (await log_in(client, provider)).status_code == 401


async def test_a_new_key_of_the_provider_is_asked_for_and_not_more_than_once_a_minute(
    here: House, known: Doorkeeper, provider: Provider, clock: Clock
) -> None:
    async with browser(here, known) as client:
        assert (await log_in(client, provider)).status_code == 200
        provider.keys = [rsa()]
        assert (await log_in(client, provider)).status_code == 401
        clock.on(seconds=61)
        assert (await log_in(client, provider)).status_code == 200
    assert provider.asked.count("/keys") == 2


EDITS: dict[str, Callable[[dict[str, str]], object]] = {
    "another state": lambda said: said.update(state="x"),
    "no state": lambda said: said.pop("state"),
    "another code": lambda said: said.update(code="x"),
    "no code": lambda said: said.pop("code"),
    "an error": lambda said: said.update(error="access_denied"),
    "another provider": lambda said: said.update(iss="https://evil.example"),
}


@pytest.mark.parametrize("edit", EDITS)
async def test_what_is_not_right_about_the_way_back_ends_the_login(
    here: House, known: Doorkeeper, provider: Provider, edit: str
) -> None:
    async with browser(here, known) as client:
        assert (await log_in(client, provider, EDITS[edit])).status_code == 401


async def test_the_way_back_is_of_use_once_and_in_one_browser(
    here: House, known: Doorkeeper, provider: Provider
) -> None:
    async with browser(here, known) as client, browser(here, known) as another:
        sent = await client.get("/login/oidc")
        back = urlsplit(provider.authorised(sent.headers["location"]))
        way = f"{back.path}?{back.query}"
        assert (await another.get(way)).status_code == 401  # no login was begun there
        await another.get("/login/oidc")
        assert (await another.get(way)).status_code == 401  # another one was
        begun = client.cookies["holdfast_here_login"]
        assert (await client.get(way)).status_code == 200
        client.cookies.set("holdfast_here_login", begun, domain="127.0.0.1")
        assert (await client.get(way)).status_code == 401


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b'{"id_token": 1}', b'{"id_token": "a.b.c"}', b"{" * 9, b" " * 2**21]
)
async def test_what_is_no_answer_of_a_provider_ends_the_login(
    here: House, known: Doorkeeper, provider: Provider, answer: bytes
) -> None:
    provider.answer = answer
    async with browser(here, known) as client:
        assert (await log_in(client, provider)).status_code == 401


async def test_a_provider_that_calls_itself_otherwise_is_not_sent_to(
    here: House, known: Doorkeeper, provider: Provider
) -> None:
    provider.calls_itself = "https://evil.example"
    async with browser(here, known) as client:
        assert (await client.get("/login/oidc")).status_code == 401


async def test_a_provider_that_is_not_there_ends_the_login(here: House) -> None:
    away = replace(here, settings=replace(here.settings, oidc_issuer="http://127.0.0.1:9"))
    keeper = Doorkeeper(away)
    async with browser(away, keeper) as client:
        assert (await client.get("/login/oidc")).status_code == 401
    await keeper.aclose()


async def test_where_no_provider_is_configured_there_is_none(house: House, keeper: Doorkeeper) -> None:
    async with browser(house, keeper) as client:
        answer = await client.get("/login/oidc")
    assert (answer.status_code, answer.json()["code"]) == (404, "NO_PROVIDER")


@pytest.mark.parametrize(
    "changes",
    [
        {"oidc_issuer": "http://idp.example"},
        {"oidc_issuer": "ftp://idp.example"},
        {"oidc_client_id": ""},
        {"public_url": ""},
        {"oidc_client_secret_file": "/nowhere"},
    ],
)
def test_half_a_provider_is_no_setting(changes: dict[str, str]) -> None:
    whole = Settings(oidc_issuer="https://idp.example", oidc_client_id="holdfast", public_url="https://hold.example")
    assert oidc.client(whole) is not None
    with pytest.raises(BadSetting, match="HOLDFAST_"):
        oidc.client(replace(whole, **changes))


def test_authlib_is_imported_by_nobody_who_has_no_provider() -> None:
    """Nor is the web framework by the commands that need no server."""
    script = (
        "import sys, api.commands, api.alone;"
        "early = {m for m in ('fastapi', 'authlib', 'joserfc') if m in sys.modules};"
        "import api.people.doorkeeper, api.people.routes;"
        "late = {m for m in ('authlib', 'joserfc') if m in sys.modules}; print(early, late)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "set() set()"
