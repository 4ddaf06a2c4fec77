"""Writes files as SOPS does: an encoder for tests, after SOPS' published format and independent of the reader."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import Any

import pyrage
import yaml
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MODIFIED = "2026-11-21T10:00:00Z"
ONLY_ENCRYPTED = bytes.fromhex("8a3fd2ad54ce66527b1034f3d147be0b0b975b3bf44f72c6fdadec8176f27d69")


def identity() -> Any:
    return pyrage.x25519.Identity.generate()


class Sealing:
    """One file on its way. What ends with `clear` stays readable, as with SOPS' own `unencrypted_suffix`."""

    def __init__(self, *, clear: str = "_unencrypted", only_encrypted: bool = False) -> None:
        self.key, self.clear, self.only = os.urandom(32), clear, only_encrypted
        self.sum = hashlib.sha512(ONLY_ENCRYPTED if only_encrypted else b"")

    def sealed(self, tree: dict[str, Any], *recipients: Any) -> dict[str, Any]:
        values = self._walked(tree, ())
        return values | {"sops": self.about(*recipients)}

    def about(self, *recipients: Any) -> dict[str, Any]:
        wrapped = [
            {"recipient": str(to), "enc": pyrage.encrypt(self.key, [to], armored=True).decode()} for to in recipients
        ]
        mac = self.encrypted(self.sum.hexdigest().upper().encode(), "str", MODIFIED)
        said = {"age": wrapped, "lastmodified": MODIFIED, "mac": mac, "unencrypted_suffix": self.clear}
        return said | {"version": "3.13.1"} | ({"mac_only_encrypted": True} if self.only else {})

    def _walked(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            return {name: self._walked(below, (*path, name)) for name, below in value.items()}
        if isinstance(value, list):
            return [self._walked(item, path) for item in value]
        if value is None:
            return None
        content, kind = self._plain(value)
        is_clear = any(step.endswith(self.clear) for step in path)
        if not (self.only and is_clear):
            self.sum.update(content)
        return value if is_clear or not content else self.encrypted(content, kind, ":".join(path) + ":")

    def _plain(self, value: Any) -> tuple[bytes, str]:
        if isinstance(value, bool):
            return (b"True" if value else b"False"), "bool"
        kind = {str: "str", int: "int", float: "float"}[type(value)]
        return str(value).encode(), kind

    def encrypted(self, content: bytes, kind: str, bound: str) -> str:
        nonce = os.urandom(32)
        made = AESGCM(self.key).encrypt(nonce, content, bound.encode())
        data, iv, tag = (base64.b64encode(part).decode() for part in (made[:-16], nonce, made[-16:]))
        return f"ENC[AES256_GCM,data:{data},iv:{iv},tag:{tag},type:{kind}]"


def as_yaml(tree: dict[str, Any]) -> str:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def as_json(tree: dict[str, Any]) -> str:
    return json.dumps(tree, indent=2, ensure_ascii=False)


def as_lines(tree: dict[str, Any]) -> str:
    """Of a flat tree."""
    about = dict(tree["sops"])
    for number, entry in enumerate(about.pop("age")):
        about |= {f"age__list_{number}__map_{name}": value for name, value in entry.items()}
    pairs = {name: value for name, value in tree.items() if name != "sops"}
    pairs |= {f"sops_{name}": str(value) for name, value in about.items()}
    return "".join(f"{name}={value}\n".replace("\n", "\\n")[:-2] + "\n" for name, value in pairs.items())
