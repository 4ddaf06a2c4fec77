"""References become values, errors never show one, and the redactor knows every value that was handed out."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import drivers.secrets
from desired_state.secrets import GRAMMARS, SecretRef
from drivers.errors import Refused, Unreachable
from drivers.secrets import resolver
from drivers.secrets.resolver import Resolver
from stickers.redaction import MASK, Redactor
from tests.desired_state.trees import resolved_files

RELEASE = f"""
apiVersion: holdfast/v1
kind: Release
name: shop
version: 1.0.0
components: {{api: registry.example.com/shop/api@sha256:{"a" * 64}}}
"""
TARGET = """
apiVersion: holdfast/v1
kind: Target
name: web-1
environment: staging
driver: boat
"""

CANARY = "c4nary-of-the-mine"


def _ref(reference: str) -> SecretRef:
    return SecretRef(reference=reference)


async def _value(reference: str) -> str:
    return await Resolver(Redactor())(_ref(reference))


async def _refusal(reference: str) -> str:
    with pytest.raises(Refused) as caught:
        await _value(reference)
    assert reference in str(caught.value)
    assert CANARY not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(CANARY + "\n")
    return path


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


async def test_a_variable_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", CANARY)
    assert await _value("env:SHOP_PASSWORD") == CANARY


async def test_a_variable_that_is_not_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_PASSWORD", raising=False)
    assert "not set" in await _refusal("env:SHOP_PASSWORD")


@pytest.mark.parametrize("reference", ["env:", "env:A-B", "env:1A", "env:A=B", "env:ä"])
async def test_a_name_that_is_no_variables_is_refused(reference: str) -> None:
    assert "name of a variable" in await _refusal(reference)


async def test_the_daemons_own_settings_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_DATABASE", CANARY)
    assert "own settings" in await _refusal("env:HOLDFAST_DATABASE")


async def test_an_empty_value_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "")
    _write(tmp_path / "empty", b"\n")
    assert "empty" in await _refusal("env:SHOP_PASSWORD")
    assert "empty" in await _refusal(f"file:{tmp_path}/empty")


async def test_a_file_is_resolved_without_the_line_break_at_its_end(secret: Path) -> None:
    assert await _value(f"file:{secret}") == CANARY
    _write(secret, b"two\nlines\r\n")
    assert await _value(f"file:{secret}") == "two\nlines"


async def test_only_one_line_break_is_taken_from_the_end(secret: Path) -> None:
    _write(secret, b"value\n\n")
    assert await _value(f"file:{secret}") == "value\n"


async def test_a_link_is_refused(secret: Path) -> None:
    (secret.parent / "link").symlink_to(secret)
    assert "link" in await _refusal(f"file:{secret.parent}/link")


async def test_what_is_no_regular_file_is_refused_without_waiting(secret: Path) -> None:
    os.mkfifo(secret.parent / "pipe")
    assert "not a regular file" in await _refusal(f"file:{secret.parent}/pipe")
    assert "directory" in await _refusal(f"file:{secret.parent}")


async def test_a_large_file_is_refused(secret: Path) -> None:
    _write(secret, (CANARY * 10_000).encode())
    assert "more than 65536 bytes" in await _refusal(f"file:{secret}")


async def test_a_missing_file_is_refused(secret: Path) -> None:
    assert "No such file" in await _refusal(f"file:{secret}-none")


async def test_bytes_that_are_no_text_are_refused(secret: Path) -> None:
    _write(secret, CANARY.encode() + b"\xff")
    assert "not UTF-8" in await _refusal(f"file:{secret}")


@pytest.mark.parametrize("path", ["", "relative", "~/secret", "/nul\0"])
async def test_a_path_is_absolute(path: str) -> None:
    assert "absolute path" in await _refusal(f"file:{path}")


@pytest.mark.parametrize(
    "content",
    [
        '{"user": "me", "password": "%s"}',
        "user=me\npassword=%s\n",
        "# of the shop\n\nexport password='%s'",
        'password = "%s"',
        'password=first\npassword="%s"',
    ],
)
async def test_a_field_of_a_file_is_resolved(secret: Path, content: str) -> None:
    _write(secret, (content % CANARY).encode())
    assert await _value(f"file:{secret}#password") == CANARY


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"user": "%s"}', "there is no field 'password'"),
        ('{"password": ["%s"]}', "is not a text"),
        ('{"password": "%s"', "is no JSON object"),
        ("{" * 20_000 + "%s", "is no JSON object"),
        ("%s", "there is no field"),
        ("user=%s", "there is no field"),
    ],
)
async def test_a_field_that_is_not_there_is_refused(secret: Path, content: str, said: str) -> None:
    _write(secret, (content % CANARY).encode())
    assert said in await _refusal(f"file:{secret}#password")


@pytest.mark.parametrize("reference", ["valut:kv/shop#x", "", "password", ":x", "ENV:HOME"])
async def test_an_unknown_backend_is_refused(reference: str) -> None:
    assert "known are aws-sm, aws-ssm, env, file, sops, vault" in await _refusal(reference)


async def test_every_backend_that_can_be_declared_is_there() -> None:
    assert set(Resolver(Redactor())._backends) == set(GRAMMARS)


def test_the_example_on_the_door_loads_and_names_every_backend() -> None:
    lines = (drivers.secrets.__doc__ or "").splitlines()
    begin = next(index for index, line in enumerate(lines) if "apiVersion" in line)
    end = next(index for index in range(begin, len(lines)) if not lines[index])
    example = "\n".join(line[4:] for line in lines[begin:end]) + "\n"
    resolved = resolved_files({"e": example, "r": RELEASE, "t": TARGET})
    assert resolved.findings == ()
    ((state,),) = (tuple(resolved.environments.values()),)
    said = [value for _, value in state.placements[0].configuration.environment]
    assert {value.backend for value in said if isinstance(value, SecretRef)} == set(GRAMMARS)


async def test_the_sdks_are_imported_by_nobody_who_needs_none() -> None:
    code = "import sys, drivers.secrets.resolver; print({'boto3', 'httpx2', 'pyrage'} & set(sys.modules))"
    found = await anyio.run_process([sys.executable, "-c", code])
    assert found.stdout == b"set()\n"


async def test_fields_below_fields_are_named_with_dots(secret: Path) -> None:
    _write(secret, b'{"db": {"password": "below"}, "db.user": "beside", "db.x.y": "no"}')
    assert await _value(f"file:{secret}#db.password") == "below"
    assert await _value(f"file:{secret}#db.user") == "beside"
    assert "no field 'db.none'" in await _refusal(f"file:{secret}#db.none")


async def test_fields_without_a_name_are_refused() -> None:
    async def read(secret: SecretRef) -> dict[str, object]:
        return {"password": CANARY}

    with pytest.raises(Refused, match="name one with #field"):
        await Resolver(Redactor(), {"own": read})(_ref("own:thing"))


async def test_a_value_is_known_to_the_redactor_when_it_is_handed_out(secret: Path) -> None:
    redactor = Redactor()
    value = await Resolver(redactor)(_ref(f"file:{secret}"))
    assert redactor.clean(f"password is {value}") == f"password is {MASK}"


async def test_another_backend_can_be_given() -> None:
    async def read(secret: SecretRef) -> str:
        return f"value of {secret.path}"

    assert await Resolver(Redactor(), {"own": read})(_ref("own:thing#")) == "value of thing"


async def test_a_backend_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "WITHIN", resolver.WITHIN / 1000)

    async def read(secret: SecretRef) -> str:
        await anyio.sleep_forever()
        return CANARY

    with pytest.raises(Unreachable, match="own:thing: no answer"):
        await Resolver(Redactor(), {"own": read})(_ref("own:thing"))


@given(content=st.binary(max_size=200), field=st.text(max_size=5))
@settings(suppress_health_check=list(HealthCheck), deadline=None)
async def test_any_content_gives_a_value_or_our_error(tmp_path: Path, content: bytes, field: str) -> None:
    _write(tmp_path / "any", content)
    with suppress(Refused):
        assert await _value(f"file:{tmp_path}/any#{field}")
