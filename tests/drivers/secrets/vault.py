"""Vaults to ask: a contract server on loopback, written from Vault's published HTTP API, and a real one.

The contract server keeps what the API documents of KV version 2 (reading a version, what a deleted and a destroyed one
answer), of AppRole logins, of namespaces, and of the answers of nodes that are sealed or stand by.
"""

from __future__ import annotations

import json
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx2

ROOT = "hvs.of-the-tests"


@dataclass
class Kept:
    """One version of a secret."""

    fields: dict[str, object]
    deleted: bool = False
    destroyed: bool = False


@dataclass
class State:
    """What the contract server knows, and how it misbehaves. `instead` answers everything else with this status."""

    secrets: dict[str, list[Kept]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=lambda: {ROOT})
    roles: dict[str, str] = field(default_factory=dict)
    namespace: str | None = None
    instead: tuple[int, dict[str, str], bytes] | None = None
    lease: int = 3600
    logins: int = 0
    connections: int = 0
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)


class Contract:
    """The contract server."""

    def __init__(self, certificate: tuple[str, str] | None = None) -> None:
        self.state = State()
        state = self.state

        class Answers(_Answers):
            known = state

        self._server = _Quiet(("127.0.0.1", 0), Answers)
        self._server.daemon_threads = True
        scheme = "http"
        if certificate:
            scheme, context = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.address = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def environ(self) -> dict[str, str]:
        return {"VAULT_ADDR": self.address, "VAULT_TOKEN": ROOT}

    def put(self, path: str, fields: dict[str, object]) -> None:
        self.state.secrets.setdefault(f"kv/{path}", []).append(Kept(fields))

    def delete(self, path: str) -> None:
        self.state.secrets[f"kv/{path}"][-1].deleted = True

    def destroy(self, path: str, version: int) -> None:
        self.state.secrets[f"kv/{path}"][version - 1].destroyed = True

    def role(self) -> dict[str, str]:
        role, proof = "role-of-the-tests", secrets.token_hex(8)
        self.state.roles[role] = proof
        return {"VAULT_ROLE_ID": role, "VAULT_SECRET_ID": proof}


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves early is no error of the server."""


class _Answers(BaseHTTPRequestHandler):
    known: State
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.known.connections += 1
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._told(self._read)

    def do_POST(self) -> None:
        self._told(self._log_in)

    def _told(self, answer: Any) -> None:
        length = int(self.headers.get("content-length") or 0)
        content = self.rfile.read(length)
        self.known.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        if self.known.instead:
            status, headers, body = self.known.instead
        else:
            status, plain = answer(content)
            headers, body = {"content-type": "application/json"}, json.dumps(plain).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _read(self, content: bytes) -> tuple[int, dict[str, Any]]:
        denied = 403, {"errors": ["permission denied"]}
        if self.headers.get("x-vault-token") not in self.known.tokens:
            return denied
        if self.headers.get("x-vault-namespace") != self.known.namespace:
            return denied
        url = urlsplit(self.path)
        mount, _, rest = unquote(url.path).removeprefix("/v1/").partition("/")
        if mount != "kv" or not rest.startswith("data/"):
            return 404, {"errors": [f'no handler for route "{mount}/{rest}".']}
        return self._version(rest.removeprefix("data/"), int(parse_qs(url.query).get("version", ["0"])[0]))

    def _version(self, path: str, number: int) -> tuple[int, dict[str, Any]]:
        versions = self.known.secrets.get(f"kv/{path}", [])
        if not versions or number > len(versions):
            return 404, {"errors": []}
        found = versions[number - 1]
        metadata = {
            "created_time": "2026-11-21T10:00:00.000000Z",
            "custom_metadata": None,
            "deletion_time": "2026-11-21T11:00:00.000000Z" if found.deleted else "",
            "destroyed": found.destroyed,
            "version": number or len(versions),
        }
        gone = found.deleted or found.destroyed
        data = {"data": None if gone else found.fields, "metadata": metadata}
        return 404 if gone else 200, {"request_id": "1", "lease_id": "", "lease_duration": 0, "data": data}

    def _log_in(self, content: bytes) -> tuple[int, dict[str, Any]]:
        said = json.loads(content)
        if self.path != "/v1/auth/approle/login":
            return 404, {"errors": [f'no handler for route "{self.path}".']}
        if self.known.roles.get(said["role_id"]) != said["secret_id"]:
            return 400, {"errors": ["invalid role or secret ID"]}
        self.known.logins += 1
        token = f"hvs.{secrets.token_hex(12)}"
        self.known.tokens.add(token)
        return 200, {"auth": {"client_token": token, "lease_duration": self.known.lease, "renewable": True}}


class Real:
    """A real Vault or OpenBao, with a token that may mount a store and make a role; both are taken away again."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        kept = ("VAULT_ADDR", "VAULT_TOKEN", "VAULT_NAMESPACE", "VAULT_CACERT")
        self.environ = {name: environ[name] for name in kept if name in environ}
        headers = {"X-Vault-Token": environ.get("VAULT_TOKEN", "")}
        if namespace := environ.get("VAULT_NAMESPACE"):
            headers["X-Vault-Namespace"] = namespace
        context = ssl.create_default_context(cafile=environ.get("VAULT_CACERT"))
        self._client = httpx2.Client(base_url=f"{environ['VAULT_ADDR']}/v1/", headers=headers, verify=context)
        self._own = f"holdfast-{secrets.token_hex(4)}"
        self._send("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
        self._made = ["sys/mounts/kv"]

    def close(self) -> None:
        for path in self._made:
            self._client.delete(path)
        self._client.close()

    def put(self, path: str, fields: dict[str, object]) -> None:
        self._send("POST", f"kv/data/{path}", {"data": fields})

    def delete(self, path: str) -> None:
        self._send("DELETE", f"kv/data/{path}")

    def destroy(self, path: str, version: int) -> None:
        self._send("PUT", f"kv/destroy/{path}", {"versions": [version]})

    def role(self) -> dict[str, str]:
        mount = self._own
        self._send("POST", f"sys/auth/{mount}", {"type": "approle"})
        self._made.append(f"sys/auth/{mount}")
        self._send("PUT", f"sys/policies/acl/{mount}", {"policy": 'path "kv/data/*" { capabilities = ["read"] }'})
        self._made.append(f"sys/policies/acl/{mount}")
        self._send("POST", f"auth/{mount}/role/tests", {"token_policies": [mount]})
        role = self._send("GET", f"auth/{mount}/role/tests/role-id")["data"]["role_id"]
        proof = self._send("POST", f"auth/{mount}/role/tests/secret-id")["data"]["secret_id"]
        return {"VAULT_ROLE_ID": role, "VAULT_SECRET_ID": proof, "VAULT_APPROLE_MOUNT": mount}

    def _send(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        response = self._client.request(method, path, json=content)
        response.raise_for_status()
        return response.json() if response.content else None
