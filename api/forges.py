"""Commit statuses as GitHub, GitLab and Gitea take them. Only the configured host is ever talked to: redirections are
not followed, and no proxy or login of the environment is used."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx2

from desired_state.findings import escaped
from desired_state.secrets import Resolve
from desired_state.sources.declared import Statuses
from drivers.errors import DriverError
from reconciler.store.statuses import Said, Status

TIMEOUT: Final = 10.0  # seconds
ANSWER: Final = 16 << 10  # bytes looked at of what a forge answers
SHOWN: Final = 140  # characters of a description; GitHub takes no more

WORDS: Final[Mapping[str, Mapping[Said, str]]] = {
    "github": {
        Said.VALIDATED: "success", Said.REFUSED: "failure", Said.PLANNED: "pending", Said.IN_SYNC: "success",
        Said.FAILED: "failure", Said.SUPERSEDED: "error",
    },
    "gitlab": {
        Said.VALIDATED: "success", Said.REFUSED: "failed", Said.PLANNED: "pending", Said.IN_SYNC: "success",
        Said.FAILED: "failed", Said.SUPERSEDED: "canceled",
    },
    "gitea": {
        Said.VALIDATED: "success", Said.REFUSED: "failure", Said.PLANNED: "pending", Said.IN_SYNC: "success",
        Said.FAILED: "failure", Said.SUPERSEDED: "warning",
    },
}  # fmt: skip


class NotSaid(Exception):
    """The forge did not take it. `soon`: it may take it when it is asked again; otherwise somebody has to see to it.
    `after` is what it asked for, in seconds."""

    def __init__(self, problem: str, *, soon: bool, after: float | None = None) -> None:
        super().__init__(problem)
        self.soon, self.after = soon, after


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


class Forge:
    """The statuses of one repository, over one kept connection."""

    def __init__(self, said: Statuses, secret: Resolve, token: Any) -> None:
        self._said, self._secret, self._token = said, secret, token
        self._client: httpx2.AsyncClient | None = None

    async def say(self, status: Status) -> None:
        """Raises `NotSaid`."""
        try:
            token = await self._secret(self._token)
        except DriverError as error:
            raise NotSaid(str(error), soon=True) from None
        asked = _asked(self._said, status, token)
        try:
            code, after, answer = await self._post(asked)
        except (httpx2.HTTPError, OSError) as error:
            raise NotSaid(f"{type(error).__name__}: {escaped(str(error), 200)}", soon=True) from None
        _insist(self._said, code, after, answer)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _post(self, asked: _Asked) -> tuple[int, str | None, bytes]:
        if self._client is None:
            trust = ssl.create_default_context(cafile=self._said.ca) if self._said.ca else True
            self._client = httpx2.AsyncClient(verify=trust, timeout=TIMEOUT, follow_redirects=False, trust_env=False)
        url = self._said.api + asked.path
        async with self._client.stream("POST", url, json=asked.body, headers=asked.headers) as answer:
            content = b""
            async for chunk in answer.aiter_bytes():
                content += chunk
                if len(content) > ANSWER:
                    break
            return answer.status_code, answer.headers.get("retry-after"), content


def _asked(said: Statuses, status: Status, token: str) -> _Asked:
    state, says = WORDS[said.kind][status.state], escaped(status.says, SHOWN)
    about = f"{said.context}/{status.context}"
    link = {"target_url": said.link} if said.link else {}
    if said.kind == "gitlab":
        path = f"/projects/{quote(said.repository, safe='')}/statuses/{status.revision}"
        return _Asked(
            path=path,
            headers={"PRIVATE-TOKEN": token},
            body={"state": state, "name": about, "description": says, **link},
        )
    return _Asked(
        path=f"/repos/{said.repository}/statuses/{status.revision}",
        headers={"Authorization": f"{'Bearer' if said.kind == 'github' else 'token'} {token}"},
        body={"state": state, "context": about, "description": says, **link},
    )


def _insist(said: Statuses, code: int, after: str | None, answer: bytes) -> None:
    if 200 <= code < 300:
        return
    if said.kind == "gitlab" and code == 400 and b"Cannot transition status" in answer:
        return  # it says so already
    if 300 <= code < 400:
        raise NotSaid(f"{said.api} answers {code}, a redirection, which is not followed", soon=False)
    wait = float(after) if after and after.isascii() and after.isdigit() else None
    soon = code == 429 or code >= 500 or wait is not None
    words = escaped(answer[:200].decode(errors="replace").strip())
    raise NotSaid(f"{said.api} answers {code}: {words}", soon=soon, after=wait)
