"""Keys on disk: made once, rotated without losing what was signed, refused when exposed or damaged."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api import keys
from api.problem import Problem
from drivers import strongbox
from stickers.names import EnvironmentId
from stickers.signature import OF_INSTALLATION, Forged, Statement

PROD, STAGING = EnvironmentId("shop/prod"), EnvironmentId("shop/staging")
AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory of keys with one key."""
    keys.init(tmp_path / "keys")
    return tmp_path / "keys"


def _code(problem: pytest.ExceptionInfo[Problem]) -> str:
    return problem.value.code


def _private(home: Path) -> Path:
    (path,) = home.glob("*.pem")
    return path


def _keyring(home: Path) -> dict[str, Any]:
    return dict(json.loads((home / "keyring.json").read_bytes()))


def test_what_is_signed_is_believed(home: Path) -> None:
    envelope = keys.load_signer(home).sign(Statement.STICKER, PROD, {"a": 1})
    assert keys.load_keyring(home).payload(envelope, Statement.STICKER, lambda _: PROD) == b'{"a":1}'


def test_the_private_key_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys.init(tmp_path / "keys")
    finally:
        os.umask(before)
    modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert modes == {".pem": 0o600, ".json": 0o644}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_no_file_is_left_beside_the_two(home: Path) -> None:
    assert sorted(path.suffix for path in home.iterdir()) == [".json", ".pem"]


def test_the_keyring_holds_no_private_key(home: Path) -> None:
    assert set(_keyring(home)["keys"][0]) == {"id", "public", "subjects", "created", "retired"}


def test_a_second_init_overwrites_nothing(home: Path) -> None:
    before = {path: path.read_bytes() for path in home.iterdir()}
    with pytest.raises(Problem) as problem:
        keys.init(home)
    assert _code(problem) == "KEYS_EXIST"
    assert {path: path.read_bytes() for path in home.iterdir()} == before


def test_of_many_at_once_one_makes_the_key(tmp_path: Path) -> None:
    def attempt(_: int) -> bool:
        try:
            keys.init(tmp_path / "keys")
        except Problem:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1
    keys.load_signer(tmp_path / "keys")


def test_a_new_key_signs_and_the_old_one_is_still_believed(home: Path) -> None:
    old = keys.load_signer(home)
    envelope = old.sign(Statement.STICKER, PROD, {"a": 1})
    new = keys.rotate(home)
    assert keys.load_signer(home).key == new
    assert new.id != old.key.id
    keyring = keys.load_keyring(home)
    assert keyring.payload(envelope, Statement.STICKER, lambda _: PROD) == b'{"a":1}'
    assert [key.retired for key in keyring.keys.values()] == [True, False]


def test_the_private_half_of_a_retired_key_is_deleted(home: Path) -> None:
    old = _private(home)
    new = keys.rotate(home)
    assert not old.exists()
    assert _private(home).stem == new.id


def test_what_a_killed_run_left_is_deleted(home: Path) -> None:
    (home / ".new-killed").write_text("half a private key")
    keys.rotate(home)
    assert not (home / ".new-killed").exists()


def test_times_are_recorded(tmp_path: Path) -> None:
    keys.init(tmp_path, now=lambda: AT)
    keys.rotate(tmp_path, now=lambda: AT.replace(year=2027))
    assert [(key["created"], key["retired"]) for key in _keyring(tmp_path)["keys"]] == [
        ("2026-03-04T05:06:07.000000Z", "2027-03-04T05:06:07.000000Z"),
        ("2027-03-04T05:06:07.000000Z", None),
    ]


def test_rotating_again_and_again_keeps_when_each_was_retired(home: Path) -> None:
    keys.rotate(home, now=lambda: AT)
    keys.rotate(home)
    assert _keyring(home)["keys"][0]["retired"] == "2026-03-04T05:06:07.000000Z"
    assert len(_keyring(home)["keys"]) == 3


@pytest.mark.parametrize("killed_at", ["private", "keyring", "sweep"])
def test_a_rotation_killed_at_any_step_leaves_a_key_that_signs(
    home: Path, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    write = strongbox.put

    def dying_write(path: Path, content: bytes, *, mode: int = 0o600) -> None:
        if (path.name == keys.KEYRING) is (killed_at == "keyring"):
            raise Killed
        write(path, content, mode=mode)

    def dying_sweep(directory: Path, keep: str) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        if killed_at == "sweep":
            patched.setattr(keys, "_sweep", dying_sweep)
        else:
            patched.setattr(strongbox, "put", dying_write)
        with pytest.raises(Killed):
            keys.rotate(home)
    keys.load_signer(home).sign(Statement.STICKER, PROD, {})
    keys.rotate(home)
    assert _private(home).stem == keys.load_signer(home).key.id


def test_rotating_without_keys_makes_none(tmp_path: Path) -> None:
    with pytest.raises(Problem) as problem:
        keys.rotate(tmp_path / "none")
    assert _code(problem) == "NO_KEYS"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("load", [keys.load_keyring, keys.load_signer])
def test_loading_without_keys_says_how_to_make_them(tmp_path: Path, load: Any) -> None:
    with pytest.raises(Problem, match="keys init") as problem:
        load(tmp_path)
    assert _code(problem) == "NO_KEYS"


# -- subjects -------------------------------------------------------------------------------------------------------


def test_a_key_may_be_limited_to_one_environment(tmp_path: Path) -> None:
    keys.init(tmp_path, subjects=keys.subjects("shop", "prod"))
    signer = keys.load_signer(tmp_path)
    for statement in OF_INSTALLATION:
        signer.sign(statement, PROD, {})
        with pytest.raises(Forged, match="may not speak of"):
            signer.sign(statement, STAGING, {})


def test_a_key_may_be_limited_to_one_project(tmp_path: Path) -> None:
    keys.init(tmp_path, subjects=keys.subjects("shop"))
    signer = keys.load_signer(tmp_path)
    signer.sign(Statement.STICKER, STAGING, {})
    with pytest.raises(Forged):
        signer.sign(Statement.STICKER, EnvironmentId("shopping/prod"), {})


def test_by_default_a_key_may_speak_of_everything(home: Path) -> None:
    everything = ("sticker:*", "evidence:*", "action:*", "checkpoint:*")
    assert keys.load_signer(home).key.subjects == everything == keys.subjects()


def test_rotating_keeps_the_subjects_unless_others_are_given(tmp_path: Path) -> None:
    keys.init(tmp_path, subjects=keys.subjects("shop"))
    assert keys.rotate(tmp_path).subjects == keys.subjects("shop")
    assert keys.rotate(tmp_path, subjects=keys.subjects("shop", "prod")).subjects == keys.subjects("shop", "prod")


@pytest.mark.parametrize("subject", ["", "*", "sticker", "sticker:", "release:*", "sticker:[a-z]", "sticker:Shop/x"])
def test_a_subject_nobody_can_speak_of_is_refused(tmp_path: Path, subject: str) -> None:
    with pytest.raises(Problem) as problem:
        keys.init(tmp_path / "keys", subjects=(subject,))
    assert _code(problem) == "BAD_SUBJECT"
    assert not (tmp_path / "keys").exists()


# -- exposed and damaged --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "mode"), [("private", 0o640), ("private", 0o604), ("keyring", 0o664)])
def test_a_file_that_others_may_touch_is_refused_and_the_remedy_named(home: Path, which: str, mode: int) -> None:
    path = _private(home) if which == "private" else home / "keyring.json"
    path.chmod(mode)
    with pytest.raises(Problem, match=f"chmod 0{mode & ~(0o077 if which == 'private' else 0o022):o} ") as problem:
        keys.load_signer(home)
    assert _code(problem) == "KEYS_EXPOSED"


@pytest.mark.parametrize("act", [keys.load_keyring, keys.load_signer, keys.rotate])
def test_a_directory_that_others_may_change_is_refused(home: Path, act: Any) -> None:
    home.chmod(0o777)
    with pytest.raises(Problem) as problem:
        act(home)
    assert _code(problem) == "KEYS_EXPOSED"


@pytest.mark.parametrize("name", ["private", "keyring"])
def test_a_link_is_not_followed(home: Path, name: str) -> None:
    path = _private(home) if name == "private" else home / "keyring.json"
    path.rename(home.parent / "elsewhere")
    path.symlink_to(home.parent / "elsewhere")
    with pytest.raises(Problem, match="link"):
        keys.load_signer(home)


def test_a_missing_private_key_is_named(home: Path) -> None:
    _private(home).unlink()
    with pytest.raises(Problem, match=r"\.pem: No such file"):
        keys.load_signer(home)


def test_another_keys_private_half_is_refused(home: Path, tmp_path: Path) -> None:
    keys.init(tmp_path / "other")
    _private(home).write_bytes(_private(tmp_path / "other").read_bytes())
    with pytest.raises(Problem, match="expected the private key of"):
        keys.load_signer(home)


def test_a_private_key_that_is_none_is_refused_and_not_shown(home: Path) -> None:
    _private(home).write_text("-----BEGIN PRIVATE KEY-----\nc4nary\n-----END PRIVATE KEY-----\n")
    with pytest.raises(Problem) as problem:
        keys.load_signer(home)
    assert _code(problem) == "KEYS_DAMAGED"
    assert "c4nary" not in str(problem.value)


def _changed(home: Path, **changes: Any) -> None:
    body = _keyring(home)
    body["keys"][0] |= changes
    (home / "keyring.json").write_text(json.dumps(body))


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "000000000000"},
        {"id": "../../etc/x"},
        {"public": "00" * 32},
        {"public": "xyz"},
        {"public": 3},
        {"subjects": []},
        {"subjects": "sticker:*"},
        {"subjects": [3]},
        {"subjects": ["everything"]},
        {"created": "yesterday"},
        {"retired": 3},
        {"created": "2026-01-01T00:00:00"},
    ],
)
def test_a_changed_entry_is_damage(home: Path, changes: dict[str, Any]) -> None:
    _changed(home, **changes)
    with pytest.raises(Problem) as problem:
        keys.load_keyring(home)
    assert _code(problem) == "KEYS_DAMAGED"


def test_a_keyring_of_another_version_is_refused_by_name(home: Path) -> None:
    (home / "keyring.json").write_text(json.dumps(_keyring(home) | {"format": "holdfast.keyring/v2"}))
    with pytest.raises(Problem, match=r"keyring/v2', this version reads holdfast\.keyring/v1"):
        keys.load_keyring(home)


def test_a_key_listed_twice_is_damage(home: Path) -> None:
    body = _keyring(home)
    body["keys"] *= 2
    (home / "keyring.json").write_text(json.dumps(body))
    with pytest.raises(Problem, match="listed twice"):
        keys.load_keyring(home)


def test_exactly_one_key_signs(home: Path) -> None:
    _changed(home, retired="2026-01-01T00:00:00+00:00")
    with pytest.raises(Problem, match="0 keys sign"):
        keys.load_signer(home)


def test_a_damaged_keyring_is_not_replaced_by_rotating(home: Path) -> None:
    (home / "keyring.json").write_text("{")
    with pytest.raises(Problem) as problem:
        keys.rotate(home)
    assert _code(problem) == "KEYS_DAMAGED"
    assert (home / "keyring.json").read_text() == "{"
    assert _private(home).exists()


@given(
    content=st.binary(max_size=60) | st.just(b"[" * 100_000) | st.sampled_from([b"null", b"[]", b"{}", b'{"keys":1}'])
)
@settings(suppress_health_check=list(HealthCheck), deadline=None)
def test_any_keyring_is_read_or_damage(home: Path, content: bytes) -> None:
    (home / "keyring.json").write_bytes(content)
    with pytest.raises(Problem) as problem:
        keys.load_keyring(home)
    assert _code(problem) == "KEYS_DAMAGED"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match="file/keys"):
        keys.init(tmp_path / "file" / "keys")


def test_rotating_a_key_from_before_there_were_checkpoints_lets_the_new_one_sign_those(tmp_path: Path) -> None:
    keys.init(tmp_path, subjects=("sticker:shop/*", "evidence:shop/*", "action:shop/*"))
    assert keys.rotate(tmp_path).subjects == keys.subjects("shop")


def test_rotating_a_limited_key_gives_the_new_one_no_more(tmp_path: Path) -> None:
    keys.init(tmp_path, subjects=("sticker:*", "evidence:shop/*"))
    assert keys.rotate(tmp_path).subjects == ("sticker:*", "evidence:shop/*")
