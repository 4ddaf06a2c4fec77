"""``sops:/absolute/path#field``: a value of a file that SOPS encrypted to an age key.

Files of YAML, JSON (any other ending is read as JSON, as SOPS does) and ``.env``. The key comes from ``SOPS_AGE_KEY``,
``SOPS_AGE_KEY_FILE`` or SOPS's own place, ``~/.config/sops/age/keys.txt``. No ``sops`` binary is needed.

Every value is authenticated for its own key, and all values, in their order, for the file: what was moved, added or
changed is refused. Values that stand in the clear are covered in their order only, not by the key they stand under, so
none of them is handed out.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from desired_state.secrets import SecretRef
from drivers.errors import Refused
from drivers.secrets import fields, file
from drivers.secrets.trees import Bad, parsed

Hide = Callable[[str], None]

LARGEST: Final = 1024 * 1024  # bytes
ENCRYPTED: Final = re.compile(r"ENC\[AES256_GCM,data:([^,]+),iv:([^,]+),tag:([^,]+),type:([a-z]+)\]")
IDENTITY: Final = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]+")
ONLY_ENCRYPTED: Final = bytes.fromhex("8a3fd2ad54ce66527b1034f3d147be0b0b975b3bf44f72c6fdadec8176f27d69")
"""What the sum of a file begins with whose values in the clear are not part of it."""


class Sops:
    """The backend. Nothing is kept: the file and the key are read each time."""

    def __init__(self, hide: Hide, environ: Mapping[str, str] = os.environ) -> None:
        self._hide, self._environ = hide, environ

    async def read(self, secret: SecretRef) -> Mapping[str, object]:
        """The encrypted values of the file, decrypted, each where it stands."""
        return await anyio.to_thread.run_sync(partial(self._read, secret), abandon_on_cancel=True)

    def _read(self, secret: SecretRef) -> Mapping[str, object]:
        content = file.text(secret, secret.path, LARGEST)
        try:
            tree = parsed(content, Path(secret.path).suffix)
            sealed = _sealed(tree)
            opened = _opened(sealed, self._identities(secret))
        except Bad as bad:
            raise Refused(f"secret {secret.reference}: {bad}") from None
        if secret.field and fields.at(opened, secret.field) is None and fields.at(tree, secret.field) is not None:
            raise Refused(f"secret {secret.reference}: the field {secret.field!r} is not encrypted in the file")
        return opened

    def _identities(self, secret: SecretRef) -> list[str]:
        found = IDENTITY.findall(self._keys(secret))
        if not found:
            raise Bad("no age key is set where the daemon runs; set SOPS_AGE_KEY or SOPS_AGE_KEY_FILE")
        for identity in found:
            self._hide(identity)
        return found

    def _keys(self, secret: SecretRef) -> str:
        if key := self._environ.get("SOPS_AGE_KEY"):
            return key
        path = self._environ.get("SOPS_AGE_KEY_FILE")
        home = self._environ.get("XDG_CONFIG_HOME") or os.path.join(self._environ.get("HOME", "/"), ".config")
        try:
            return Path(path or os.path.join(home, "sops/age/keys.txt")).read_text()
        except UnicodeDecodeError:
            raise Bad("SOPS_AGE_KEY_FILE is not text") from None
        except OSError as error:
            if path:
                raise Bad(f"SOPS_AGE_KEY_FILE: {path}: {error.strerror}") from None
            return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """An encrypted file: its values as they stand there, and what SOPS says of them."""

    tree: Mapping[str, Any]
    wrapped: tuple[str, ...]  # the data key, for each recipient
    mac: str
    modified: str
    only_encrypted: bool


def _sealed(tree: Mapping[str, Any]) -> Sealed:
    about = tree.get("sops")
    if not isinstance(about, Mapping):
        raise Bad("the file is not encrypted by SOPS")
    groups = about.get("key_groups")
    if groups or about.get("shamir_threshold"):
        raise Bad("its key is split between groups of keys, which is not read here")
    keys = about.get("age") or []
    entries = [key.get("enc") for key in keys if isinstance(key, Mapping)] if isinstance(keys, list) else []
    wrapped = tuple(entry for entry in entries if isinstance(entry, str))
    mac, modified = about.get("mac"), about.get("lastmodified")
    if not wrapped:
        raise Bad("it is not encrypted to an age key")
    if not isinstance(mac, str) or not mac or not isinstance(modified, str):
        raise Bad("it has no MAC, so nothing says that it is whole")
    only = str(about.get("mac_only_encrypted", False)).lower() == "true"
    values = {key: value for key, value in tree.items() if key != "sops"}
    return Sealed(tree=values, wrapped=wrapped, mac=mac, modified=modified, only_encrypted=only)


def _opened(sealed: Sealed, identities: list[str]) -> Mapping[str, Any]:
    key = AESGCM(_data_key(sealed, identities))
    opening = _Opening(key=key, only_encrypted=sealed.only_encrypted)
    opened = opening.map(sealed.tree, ())
    expected = _decrypted(key, sealed.mac, sealed.modified)
    if not hmac.compare_digest(opening.sum.hexdigest().upper().encode(), expected[0]):
        raise Bad("the MAC of the file is not that of its values: it was changed without SOPS")
    return opened


def _data_key(sealed: Sealed, identities: list[str]) -> bytes:
    try:
        import pyrage  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise Bad("pyrage is not installed where the daemon runs: install holdfast[sops]") from None
    try:
        own = [pyrage.x25519.Identity.from_str(identity) for identity in identities]
    except pyrage.IdentityError:
        raise Bad("what is set as age key is none") from None
    for wrapped in sealed.wrapped:
        try:
            key = pyrage.decrypt(wrapped.strip().encode(), own)
        except pyrage.DecryptError:
            continue
        if len(key) == 32:
            return bytes(key)
    raise Bad("it is not encrypted to the age key that is set, or the wrapped key was changed")


@dataclass(slots=True, kw_only=True)
class _Opening:
    """One walk through the values, in the order of the file, that decrypts them and adds them up."""

    key: AESGCM
    only_encrypted: bool
    sum: Any = field(default_factory=hashlib.sha512)

    def __post_init__(self) -> None:
        if self.only_encrypted:
            self.sum.update(ONLY_ENCRYPTED)

    def map(self, node: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        return dict(self._each(node.items(), path))

    def _each(self, items: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, value in items:
            found = self._value(value, (*path, name))
            if found is not None:
                yield name, found

    def _value(self, value: Any, path: tuple[str, ...]) -> Any:
        """Texts as such, other values as bytes, and None for what stands in the clear."""
        match value:
            case None:
                return None
            case Mapping():
                return self.map(value, path)
            case list():  # its items have no keys of their own, and share that of the list
                return [found for item in value if (found := self._value(item, path)) is not None]
            case str() if ENCRYPTED.fullmatch(value):
                content, kind = _decrypted(self.key, value, ":".join(path) + ":")
                self.sum.update(_plain(content.decode().lower() == "true") if kind == "bool" else content)
                return _text(content, path) if kind in ("str", "bytes") else content
        if not self.only_encrypted:
            self.sum.update(_plain(value))
        return None


def _text(content: bytes, path: tuple[str, ...]) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Bad(f"the value of {'.'.join(path)[:80]} is not UTF-8 text") from None


def _decrypted(key: AESGCM, value: str, bound: str) -> tuple[bytes, str]:
    """The value and its type; `bound` is what it was encrypted for, and nowhere else does it decrypt."""
    found = ENCRYPTED.fullmatch(value)
    if found is None:
        raise Bad("its MAC is not in the form that SOPS writes")
    try:
        data, nonce, tag = (base64.b64decode(part, validate=True) for part in found.groups()[:3])
        return key.decrypt(nonce, data + tag, bound.encode()), found[4]
    except (InvalidTag, ValueError, binascii.Error):
        raise Bad("a value of the file is not what was encrypted in its place: it was changed without SOPS") from None


def _plain(value: str | int | float | bool) -> bytes:
    """As SOPS writes a value into the sum."""
    match value:
        case bool():
            return b"True" if value else b"False"
        case str():
            return value.encode()
        case int():
            return str(value).encode()
    text = format(Decimal(repr(value)), "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text).encode()
