"""Commands about signing keys and stickers; all of them work offline."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from api.cli import show
from api.problem import FAILED, OK, Problem
from api.settings import Settings
from stickers.signature import PublicKey


def init(settings: Settings, given: Namespace) -> int:
    from api import keys

    return _made(given, keys.init(settings.keys), f"in {settings.keys}")


def rotate(settings: Settings, given: Namespace) -> int:
    from api import keys

    return _made(given, keys.rotate(settings.keys), "signs from now on; what the old key signed stays valid")


def _made(given: Namespace, key: PublicKey, what: str) -> int:
    if given.output == "json":
        show.as_json(_key(key))
    else:
        print(f"key {key.id} {what}")
    return OK


def show_all(settings: Settings, given: Namespace) -> int:
    from api import keys

    found = list(keys.load_keyring(settings.keys).keys.values())
    if given.output == "json":
        show.as_json({"keys": [_key(key) for key in found]})
        return OK
    rows = ((key.id, "retired" if key.retired else "signs", ", ".join(key.subjects), key.public.hex()) for key in found)
    show.columns(("key", "state", "may speak of", "public"), rows)
    return OK


def _key(key: PublicKey) -> dict[str, Any]:
    return {"id": key.id, "retired": key.retired, "subjects": list(key.subjects), "public": key.public.hex()}


def verify(settings: Settings, given: Namespace) -> int:
    """Valid, or which of unsigned, forged and unreadable it is; the exit code says it too."""
    from api import keys
    from stickers import codec, digest
    from stickers.signature import Forged, SignatureError, Unsigned

    try:
        content = Path(given.file).read_bytes()
    except OSError as error:
        raise Problem("NO_FILE", f"{given.file}: {error.strerror}") from None
    keyring = keys.load_keyring(settings.keys)
    try:
        sticker = codec.verified(codec.from_file(content), keyring)
    except (codec.Unreadable, SignatureError) as error:
        trust = "unsigned" if isinstance(error, Unsigned) else "forged" if isinstance(error, Forged) else "unreadable"
        return _judged(given, {"trust": trust, "reason": str(error)})
    return _judged(given, {"trust": "valid", "sticker": digest.plain(sticker)})


def _judged(given: Namespace, answer: dict[str, Any]) -> int:
    if given.output == "json":
        show.as_json(answer)
    elif "reason" in answer:
        print(f"{given.file}: {answer['trust']}: {show.clean(answer['reason'])}")
    else:
        claim = answer["sticker"]["claim"]
        worn = f"{claim['release']} of {claim['component']} on {claim['project']}/{claim['target']}"
        print(f"{given.file}: valid: {worn}, {answer['sticker']['phase']}, sequence {answer['sticker']['sequence']}")
    return OK if answer["trust"] == "valid" else FAILED
