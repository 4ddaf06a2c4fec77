"""The manifest of a job, byte for byte."""

from __future__ import annotations

from pathlib import Path

from drivers.contract import Deploy, Footing, Remove, Rendered, RenderedKind, Restart, Stamp, claim_of
from reconciler.core.intent import Intent, Wave
from reconciler.core.manifest import Subject, manifest
from stickers import digest
from stickers.names import JobId
from tests.reconciler.core.builders import HERE, PROD, place, placement

GOLDEN = Path(__file__).with_name("golden") / "manifest.json"
SUBJECT = Subject(
    job=JobId("default/prod:7"),
    direction="forward",
    environment=PROD,
    desired=digest.of("desired"),
    revision="0123abcd",
    plan="3f9c21aa",
)
STAMP = Stamp(sequence=1, previous=None)
STOOD = Footing(instance="1", artifact=None, configuration=None)


def waves() -> tuple[Wave, ...]:
    new, old, gone = placement(place(1), "2.0.0"), placement(place(1), "1.0.0"), placement(place(2), "1.0.0")
    deploy = Deploy(placement=new, replaces=None, predecessor=old, stamp=STAMP)
    restart = Restart(placement=placement(place(1, "web")), replaces=STOOD, stamp=STAMP)
    remove = Remove(id=gone.id, claim=claim_of(gone, HERE), replaces=None, stamp=STAMP)
    one = Intent(target=new.id.target, changes=(deploy, restart))
    return Wave(intents=(one,)), Wave(intents=(Intent(target=gone.id.target, changes=(remove,)),))


def test_the_manifest_is_the_one_that_was_agreed_on() -> None:
    file = Rendered(kind=RenderedKind.ENV_FILE, name="api.env", media_type="text/plain", text="A=1\n", of=(place(1),))
    found = manifest(SUBJECT, waves(), {place(1).target: [file]})
    assert (found.kind, found.name) == (RenderedKind.MANIFEST, "manifest.json")
    assert found.text == GOLDEN.read_text()
