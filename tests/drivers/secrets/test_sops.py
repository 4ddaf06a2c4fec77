"""Files of SOPS: those that it wrote itself, and those that an encoder of our own wrote after its format."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desired_state.secrets import SecretRef
from drivers.errors import Refused
from drivers.secrets import fields, trees
from drivers.secrets.sops import Sops

pytest.importorskip("pyrage", reason="pyrage is not installed")

from tests.drivers.secrets.sealed import Sealing, as_json, as_lines, as_yaml, identity

CANARY = "c4nary-of-the-mine"
WRITTEN = Path(__file__).parent / "sops"
PUBLISHED = "AGE-SECRET-KEY-1QXRVEJH9S4NQU0FPD6V79ESZQ8S6PXH3L8V40EVPTHFH6KNKD4DQ7SKC4P"
OWN = identity()
WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {"yaml": as_yaml, "json": as_json, "env": as_lines}


async def value(path: Path, field: str, key: str = str(OWN)) -> str:
    secret = SecretRef(reference=f"sops:{path}#{field}")
    return fields.value(await Sops(lambda _: None, {"SOPS_AGE_KEY": key}).read(secret), secret)


async def refusal(path: Path, field: str = "password", key: str = str(OWN)) -> str:
    with pytest.raises(Refused) as caught:
        await value(path, field, key)
    said = str(caught.value)
    assert said.startswith(f"secret sops:{path}#{field}: ")
    assert CANARY not in said
    assert key not in said
    return said


def written(directory: Path, tree: dict[str, Any], ending: str = "yaml", sealing: Sealing | None = None) -> Path:
    path = directory / f"secrets.{ending}"
    path.write_text(WRITERS[ending]((sealing or Sealing()).sealed(tree, OWN.to_public())))
    return path


@pytest.mark.parametrize("ending", ["yaml", "json", "env"])
async def test_what_sops_wrote_is_read(ending: str) -> None:
    assert await value(WRITTEN / f"secret.enc.{ending}", "secret", PUBLISHED) == "this is a secret"


async def test_what_sops_wrote_below_is_read() -> None:
    assert await value(WRITTEN / "secret.enc.yaml", "complex.value", PUBLISHED) == "this is a secret"
    assert await value(WRITTEN / "secret.enc.json", "0word", PUBLISHED) == "gotta match go"


@pytest.mark.parametrize("ending", list(WRITERS))
async def test_a_value_is_read(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path, {"user": "me", "password": f"{CANARY}\nof two lines ü", "empty": ""}, ending)
    assert await value(path, "password") == f"{CANARY}\nof two lines ü"


async def test_values_of_every_type_are_part_of_the_sum(tmp_path: Path) -> None:
    tree = {
        "password": CANARY,
        "n": 5,
        "f": 0.25,
        "t": True,
        "none": None,
        "list": ["a", {"b": False}],
        "clear_unencrypted": {"n": 8080, "f": 2.5, "t": True, "s": "yes", "octal": "010", "list": [1, "x"]},
    }
    for ending in ("yaml", "json"):
        assert await value(written(tmp_path, tree, ending), "password") == CANARY


@pytest.mark.parametrize("field", ["n", "list", "below"])
async def test_what_is_no_text_is_refused(tmp_path: Path, field: str) -> None:
    path = written(tmp_path, {"n": 5, "list": ["a"], "below": {"password": CANARY}})
    assert "is not a text" in await refusal(path, field)


async def test_a_value_in_the_clear_is_not_handed_out(tmp_path: Path) -> None:
    path = written(tmp_path, {"password": CANARY, "user_unencrypted": "me"})
    assert "not encrypted in the file" in await refusal(path, "user_unencrypted")


async def test_the_sum_may_be_of_what_is_encrypted_alone(tmp_path: Path) -> None:
    path = written(tmp_path, {"password": CANARY, "note_unencrypted": "x"}, sealing=Sealing(only_encrypted=True))
    assert await value(path, "password") == CANARY
    path.write_text(path.read_text().replace("note_unencrypted: x", "note_unencrypted: y\npassword2: mine"))
    assert await value(path, "password") == CANARY
    assert "not encrypted in the file" in await refusal(path, "password2")


async def test_a_value_that_was_moved_to_another_key_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"guest": "x1", "password": CANARY})
    path.write_text(path.read_text().replace("guest:", "guest2:"))
    assert "changed without SOPS" in await refusal(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"^user:.*\n", ""),
        (r"note_unencrypted: x", "note_unencrypted: y"),
        (r"^user:(.*)$", r"user:\1\nmore: plain"),
        (r"^user: .*$", "user: me2"),
        (r"data:.", "data:"),
        (r"(lastmodified: '?)2026", r"\g<1>2027"),
        (r"(mac: ENC\[AES256_GCM,data:)....", r"\1AAAA"),
        (r"mac: .*$", "mac: plain"),
        (r"mac_only_encrypted: false", "mac_only_encrypted: true"),
    ],
)
async def test_a_file_that_was_changed_is_refused(tmp_path: Path, old: str, new: str) -> None:
    sealing = Sealing()
    path = written(tmp_path, {"user": "me", "password": CANARY, "note_unencrypted": "x"}, sealing=sealing)
    text = path.read_text() + "  mac_only_encrypted: false\n"
    path.write_text(text)
    assert await value(path, "password") == CANARY
    path.write_text(re.sub(old, new, text, count=1, flags=re.MULTILINE))
    assert path.read_text() != text
    await refusal(path)


async def test_a_file_whose_mac_was_taken_away_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"password": CANARY})
    path.write_text(re.sub(r"  mac: (?:.*\n)(?:    .*\n)*", "", path.read_text()))
    assert "no MAC" in await refusal(path)


async def test_order_of_the_values_is_part_of_the_sum(tmp_path: Path) -> None:
    path = written(tmp_path, {"password": CANARY, "user": "me"})
    first, second, *rest = re.split(r"(?m)^(?=\S)", path.read_text())[1:]
    path.write_text("".join((second, first, *rest)))
    assert "MAC" in await refusal(path)


async def test_the_wrong_key_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"password": CANARY})
    assert "not encrypted to the age key" in await refusal(path, key=str(identity()))
    assert "no age key is set" in await refusal(path, key="AGE-SECRET-KEY-")
    assert "is none" in await refusal(path, key="AGE-SECRET-KEY-1QQQQ")


async def test_any_of_several_keys_and_recipients_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "secrets.yaml"
    path.write_text(as_yaml(Sealing().sealed({"password": CANARY}, identity().to_public(), OWN.to_public())))
    assert await value(path, "password", f"# comment\n{identity()}\n{OWN}\n") == CANARY


async def test_keys_are_found_in_files(tmp_path: Path) -> None:
    path = written(tmp_path, {"password": CANARY})
    keys = tmp_path / "sops" / "age" / "keys.txt"
    keys.parent.mkdir(parents=True)
    keys.write_text(f"# public key: x\n{OWN}\n")
    secret = SecretRef(reference=f"sops:{path}#password")
    hidden: list[str] = []
    for environ in ({"SOPS_AGE_KEY_FILE": str(keys)}, {"XDG_CONFIG_HOME": str(tmp_path)}):
        assert (await Sops(hidden.append, environ).read(secret))["password"] == CANARY
    assert set(hidden) == {str(OWN)}
    with pytest.raises(Refused, match="SOPS_AGE_KEY_FILE: /nowhere"):
        await Sops(hidden.append, {"SOPS_AGE_KEY_FILE": "/nowhere"}).read(secret)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("password: plain\n", "not encrypted by SOPS"),
        ("- password\n", "no map of values"),
        ("a: b: c\n", "not one document of YAML"),
        ("a: 1\n---\nb: 2\n", "not one document of YAML"),
        ("a: &x [1]\nb: *x\nsops: {}\n", "an alias"),
        ("a: 1\na: 2\nsops: {}\n", "a key stands in it twice"),
        ("1: 1\nsops: {}\n", "not a text"),
        ("a: !!binary aGk=\nsops: {}\n", "holds what is neither"),
        ("a: !!timestamp 2001-01-01\nsops: {}\n", "holds what is neither"),
        ("a: !!python/object:os.system x\nsops: {}\n", "holds what is neither"),
        ("a: " + "[" * 200 + "]" * 200 + "\n", "nested deeper"),
        ("sops: {pgp: [{enc: x}], mac: m, lastmodified: l}\n", "not encrypted to an age key"),
        ("sops: {key_groups: [{age: []}], shamir_threshold: 2}\n", "split between groups"),
        ("sops: {age: [{enc: x}], lastmodified: l}\n", "no MAC"),
        ("sops: {age: [{enc: x}], lastmodified: l, mac: m}\n", "wrapped key was changed"),
    ],
)
async def test_what_cannot_be_read_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "secrets.yaml"
    path.write_text(content)
    assert said in await refusal(path)


async def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.ini").write_text("[x]")
    (tmp_path / "x.txt").write_text("[x")
    assert "INI" in await refusal(tmp_path / "x.ini")
    assert "not JSON" in await refusal(tmp_path / "x.txt")
    assert "No such file" in await refusal(tmp_path / "none.yaml")


async def test_a_missing_field_is_refused(tmp_path: Path) -> None:
    assert "no field 'none'" in await refusal(written(tmp_path, {"password": CANARY}), "none")


async def test_without_pyrage_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, {"password": CANARY})
    monkeypatch.setitem(sys.modules, "pyrage", None)
    assert "holdfast[sops]" in await refusal(path)


@given(content=st.text(max_size=300), ending=st.sampled_from([".yaml", ".json", ".env"]))
def test_any_content_gives_a_tree_or_is_bad(content: str, ending: str) -> None:
    with suppress(trees.Bad):
        assert isinstance(trees.parsed(content, ending), dict)
