"""The lock file, byte for byte."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from desired_state.model import Port, RestartPolicy, RuntimeHealthcheck, Volume
from desired_state.secrets import SecretFile, SecretRef
from drivers.compose import lock
from drivers.compose.template import Part
from drivers.docker import render
from stickers.names import LIVE, PlacementId, SlotName
from tests.drivers.compose import samples
from tests.drivers.compose.samples import PLACE, made, placement

GOLDEN = Path(__file__).with_name("golden")
NASTY = (
    "1e3",
    "0o12",
    "yes",
    "null",
    "~",
    "22:22",
    "012",
    "2026-11-21",
    ".inf",
    "- a",
    "a: b",
    "#x",
    '"',
    "\\",
    "\n\t",
)


def service(piece: lock.Piece) -> dict[str, Any]:
    """What a reader of the file finds, with compose's own `$$` still in it."""
    found: dict[str, Any] = yaml.safe_load(lock.lock(PLACE, [piece]))["services"][piece.service]
    return found


def spec(piece: lock.Piece) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(piece.labels[render.SPECIFICATION])
    return found


def whole() -> bytes:
    declared = {
        "environment": (("LOG_LEVEL", "debug"), ("PASSWORD", samples.PASSWORD)),
        "restart": RestartPolicy.ON_FAILURE,
    }
    return lock.lock(PLACE, [made(placement(**declared)), made(placement("db"))])


def test_the_lock_is_the_one_that_was_agreed_on() -> None:
    """A change of these bytes makes every container of every fleet anew: it is meant, or it is wrong."""
    assert whole() == (GOLDEN / "shop.lock.yaml").read_bytes()
    assert lock.hash_of(whole()) == (GOLDEN / "shop.lock.sha256").read_text().strip()


def test_the_same_wish_gives_the_same_bytes_in_whatever_order_it_is_given() -> None:
    pieces = [made(placement("api")), made(placement("db")), made(placement("mail"))]
    assert lock.lock(PLACE, pieces) == lock.lock(PLACE, [made(placement(piece.service)) for piece in reversed(pieces)])


def test_the_hash_is_of_the_final_bytes() -> None:
    """Whoever has the file can compute it; it does not stand in the file."""
    content = whole()
    assert lock.hash_of(content) == hashlib.sha256(content).hexdigest()
    assert lock.hash_of(content).encode() not in content


def test_every_image_is_pinned_whatever_the_template_names() -> None:
    images = [said["image"] for said in yaml.safe_load(whole())["services"].values()]
    assert images == [str(placement("api").artifact), str(placement("db").artifact)]
    assert b"latest" not in whole()


def test_no_value_of_a_secret_and_no_action_is_in_it() -> None:
    content = whole().decode()
    assert "${HOLDFAST_SECRET_" in content
    assert samples.PASSWORD.reference in content  # the reference, in the label that is compared
    for label in (render.KEY, render.FENCE, render.SEQUENCE):
        assert f'"{label}"' not in content


FILED = (
    SecretFile(name="db-password", secret=samples.PASSWORD),
    SecretFile(name="token", secret=SecretRef(reference="env:TOKEN"), path="/etc/to$ken"),
)


def test_secrets_as_files_are_mounted_from_a_directory_of_their_content() -> None:
    one, other = made(placement(secrets=FILED)), made(placement(secrets=FILED[:1]))
    mounts = [mount for mount in service(one)["volumes"] if mount["type"] == "bind"][1:]
    assert [mount["target"] for mount in mounts] == ["/run/secrets/db-password", "/etc/to$$ken"]
    assert [mount["source"] for mount in mounts] == [f"{one.folder}/db-password", f"{one.folder}/token"]
    assert all(mount["read_only"] for mount in mounts)
    assert one.folder.startswith(f"/run/holdfast/{PLACE.project}-api-")
    assert one.folder != other.folder
    assert one.files == {"db-password": FILED[0].secret, "token": FILED[1].secret}
    assert (made(placement()).folder, made(placement()).files) == ("", {})


def test_a_lock_that_was_kept_tells_its_files_again() -> None:
    wanted = placement(secrets=FILED)
    piece = lock.piece(replace(PLACE, memory="/run/elsewhere"), wanted, Part.read(wanted.configuration.template or ""))
    found = lock.unlocked(lock.lock(PLACE, [piece]).decode(), PLACE, wanted)
    assert found is not None
    assert (found.files, found.folder) == (piece.files, piece.folder)


def test_a_secret_where_a_volume_is_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match="secrets: token would be at /data, where a volume is"):
        made(placement(secrets=(replace(FILED[1], path="/data"),)))


def test_every_text_and_every_key_is_in_double_quotes() -> None:
    for line in whole().decode().splitlines()[1:]:
        text = line.lstrip(" -")
        assert text == "" or text.startswith('"') or text.replace(".", "").isdigit() or text in ("true", "false"), line


@pytest.mark.parametrize("text", [*NASTY, "ünïcödé 🎈", "$HOME ${X} $$"])
def test_a_text_comes_back_as_it_was_from_any_reader(text: str) -> None:
    piece = made(placement("mail", environment=(("A", text),), command=(text,)))
    found = service(piece)
    assert found["environment"]["A"].replace("$$", "$") == text
    assert found["command"][0].replace("$$", "$") == text
    assert found["environment"]["A"].count("$") == 2 * text.count("$")
    assert spec(piece)["environment"]["A"] == text


def test_what_the_component_declares_takes_the_place_of_what_the_template_says() -> None:
    piece = made(
        placement(
            command=("other",),
            environment=(("LOG_LEVEL", "debug"),),
            ports=(Port(container=1, host=2, address="::1"),),
            volumes=(Volume(source="data", destination="/elsewhere"),),
            networks=("back",),
            user="1:1",
            memory=1 << 20,
            cpus=1250,
            healthcheck=RuntimeHealthcheck(argv=("/check",)),
        )
    )
    found = service(piece)
    assert found["command"] == ["other"]
    assert found["environment"] == {"LOG_LEVEL": "debug", "PRICE": "5 $$", "WORKERS": "4"}
    assert found["ports"] == ["[::1]:2:1/tcp"]
    assert found["volumes"] == [{"type": "volume", "source": "data", "target": "/elsewhere"}]
    assert list(found["networks"]) == ["back"]
    assert (found["user"], found["mem_limit"], Decimal(str(found["cpus"]))) == ("1:1", 1 << 20, Decimal("1.25"))
    assert found["healthcheck"]["test"] == ["CMD", "/check"]


def test_the_template_says_what_the_component_leaves_open() -> None:
    found, seen = service(made(placement())), spec(made(placement()))
    assert found["ports"] == ["127.0.0.1:8081:8080/tcp", "0.0.0.0::9090/tcp"]
    assert found["stop_grace_period"] == "2s"
    assert found["networks"]["front"] == {"aliases": ["api", "shop"]}
    assert seen["networks"] == {"proxy": "api", f"{PLACE.project}_back": "api"}
    assert seen["volumes"]["/data"]["source"] == f"{PLACE.project}_data"
    assert seen["healthcheck"]["argv"] == ["CMD-SHELL", "check || exit 1"]
    assert (seen["memory"], seen["cpus"], seen["environment"]["PRICE"]) == (64 << 20, 500, "5 $")


def test_a_service_waits_only_for_those_that_stand_in_the_lock() -> None:
    assert "depends_on" not in service(made(placement()))
    both = yaml.safe_load(lock.lock(PLACE, [made(placement()), made(placement("db"))]))
    assert both["services"]["api"]["depends_on"] == ["db"]


def test_a_network_of_ours_carries_our_labels_and_one_of_others_does_not() -> None:
    networks = yaml.safe_load(whole())["networks"]
    assert networks["front"] == {"external": True, "name": "proxy"}
    assert networks["back"] == {"internal": True, "labels": PLACE.labels}


def test_one_name_with_two_meanings_is_refused() -> None:
    other = copy.deepcopy(samples.TEMPLATE)
    other["networks"]["back"] = None
    with pytest.raises(lock.Clash, match="network back means one thing to api and another to db"):
        lock.lock(PLACE, [made(placement("api")), made(placement("db", other))])


def test_another_slot_is_another_service_under_a_name_no_component_can_have() -> None:
    canary = replace(placement(), id=PlacementId(PLACE.target, placement().id.component, SlotName("canary")))
    assert lock.service_name(canary.id) == "api.canary"
    assert lock.service_name(placement().id) == "api"
    assert placement().id.slot == LIVE


def test_no_two_targets_and_no_two_installations_share_a_project() -> None:
    others = [replace(PLACE, installation="other"), replace(PLACE, target="shop/web-2"), PLACE]  # type: ignore[arg-type]
    assert len({place.project for place in others}) == 3
    assert PLACE.project.startswith("holdfast-web-1-")


def test_a_span_is_given_in_whole_units() -> None:
    piece = made(placement(stop_grace=timedelta(milliseconds=1500)))
    assert service(piece)["stop_grace_period"] == "2s"
    assert service(piece)["healthcheck"]["interval"] == "5000ms"
