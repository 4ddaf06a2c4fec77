"""An OpenID Connect provider on loopback, written from the standards: it holds its clients to the code flow with PKCE,
and does wrong whatever a test asks of it."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

Claims = dict[str, Any]


@dataclass
class Provider:
    """What it is, what it vouches for, and what it was asked."""

    client: str = "holdfast"
    secret: str | None = "s3cret"
    claims: Claims = field(default_factory=lambda: {"sub": "u-1", "preferred_username": "Ada", "groups": ["platform"]})
    change: Callable[[Claims], object] = lambda claims: None
    algorithm: str = "RS256"
    keys: list[Any] = field(default_factory=list)
    shown: list[Any] | None = None  # keys that it publishes, where those are not the ones it signs with
    now: Callable[[], float] = lambda: 0.0
    issuer: str = ""
    calls_itself: str | None = None
    answer: bytes | None = None  # of the token endpoint, instead of a right one
    asked: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    broken: list[Exception] = field(default_factory=list)  # of its own making: no test passes by such

    def authorised(self, address: str) -> str:
        """What a browser does with the address that it was sent to; where it is sent back to."""
        parts = urlsplit(address)
        said = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{self.issuer}/authorize"
        assert (said["response_type"], said["client_id"]) == ("code", self.client)
        assert (said["code_challenge_method"], len(said["code_challenge"])) == ("S256", 43)
        assert "openid" in said["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = said
        return f"{said['redirect_uri']}?{urlencode({'code': code, 'state': said['state'], 'iss': self.issuer})}"

    def redeemed(self, form: dict[str, str], authorization: str | None) -> tuple[int, Claims]:
        if self.secret is not None:
            expected = base64.b64encode(f"{self.client}:{self.secret}".encode()).decode()
            if authorization != f"Basic {expected}":
                return 401, {"error": "invalid_client"}
        begun = self.codes.pop(form.get("code", ""), None)
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).rstrip(b"=").decode()
        if (
            begun is None
            or form["grant_type"] != "authorization_code"
            or form["redirect_uri"] != begun["redirect_uri"]
            or challenge != begun["code_challenge"]
        ):
            return 400, {"error": "invalid_grant"}
        now = int(self.now())
        claims = {"iss": self.issuer, "aud": self.client, "iat": now, "exp": now + 300, "nonce": begun["nonce"]}
        claims |= self.claims
        self.change(claims)
        key = self.keys[0]
        header = {"alg": self.algorithm, "kid": key.kid}
        token = jwt.encode(header, claims, key, algorithms=[self.algorithm])
        return 200, {"access_token": "a", "token_type": "Bearer", "id_token": token}

    def published(self) -> Claims:
        shown = self.keys if self.shown is None else self.shown
        return {"keys": [each.as_dict(private=False) for each in shown]}

    def discovery(self) -> Claims:
        return {
            "issuer": self.calls_itself or self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
        }


def rsa() -> Any:
    return RSAKey.generate_key(2048, {"kid": secrets.token_hex(4), "use": "sig"}, auto_kid=False)


def elliptic() -> Any:
    return ECKey.generate_key("P-256", {"kid": secrets.token_hex(4), "use": "sig"}, auto_kid=False)


def edwards() -> Any:
    return OKPKey.generate_key("Ed25519", {"kid": secrets.token_hex(4), "use": "sig"}, auto_kid=False)


def shared(secret: str, kid: str) -> Any:
    return OctKey.import_key(secret, {"kid": kid})


def key_set(*keys: Any) -> Any:
    return KeySet(list(keys))


@contextmanager
def serving(provider: Provider) -> Iterator[Provider]:
    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.asked.append(self.path)
            match urlsplit(self.path).path:
                case "/.well-known/openid-configuration":
                    self._say(200, json.dumps(provider.discovery()).encode())
                case "/keys":
                    self._say(200, json.dumps(provider.published()).encode())
                case "/authorize":  # whoever comes here is logged in already, and sent back at once
                    self.send_response(303)
                    self.send_header("location", provider.authorised(f"{provider.issuer}{self.path}"))
                    self.send_header("content-length", "0")
                    self.end_headers()
                case _:
                    self._say(404, b"{}")

        def do_POST(self) -> None:
            provider.asked.append(self.path)
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            if provider.answer is not None:
                self._say(200, provider.answer)
                return
            try:
                status, content = provider.redeemed(form, self.headers.get("authorization"))
            except Exception as error:
                provider.broken.append(error)
                raise
            self._say(status, json.dumps(content).encode())

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    provider.issuer = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert not provider.broken
