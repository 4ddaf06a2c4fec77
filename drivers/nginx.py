"""What an nginx before a component is told: an upstream and a server, to be included in its `http` block. Pure.

Ports stay with whoever publishes them, so the file says the same from release to release and a deployment needs no
reload. How often an instance may fail before it is left out for a while is what its health check declares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from desired_state.health import Health, HttpCheck
from desired_state.model import Placement, Port, Proxy
from drivers.contract import Rendered, RenderedKind
from drivers.errors import InvalidAction
from drivers.rendered import stem

EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - published at all addresses, asked at one


def configs(placements: Iterable[Placement]) -> tuple[Rendered, ...]:
    """One file for each component that declares a proxy."""
    return tuple(_config(each, each.proxy) for each in placements if each.proxy is not None)


def _config(placement: Placement, proxy: Proxy) -> Rendered:
    return Rendered(
        kind=RenderedKind.NGINX_CONFIG,
        name=f"{stem(placement.id)}.nginx.conf",
        media_type="text/plain",
        text="".join(f"{line}\n" for line in _lines(placement, proxy)),
        of=(placement.id,),
    )


def _lines(placement: Placement, proxy: Proxy) -> Iterator[str]:
    upstream = f"holdfast-{placement.id.target.replace('/', '-')}-{stem(placement.id)}"
    check = _asked(placement.health, proxy)
    yield f"# The proxy of {placement.id.component} on {placement.id.target}, to be included in nginx's http block."
    yield f"upstream {upstream} {{"
    yield f"    server {_address(_port(placement, proxy))} {_patience(placement.health)};"
    yield "}"
    yield ""
    yield "server {"
    yield f"    listen {proxy.listen};"
    yield f"    server_name {proxy.server_name};"
    yield ""
    yield "    location / {"
    yield f"        proxy_pass {'https' if check and check.tls else 'http'}://{upstream};"
    yield "        proxy_set_header Host $host;"
    yield "        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
    yield "        proxy_set_header X-Forwarded-Proto $scheme;"
    if check is not None and check.tls is not None:
        yield from _judged(check, proxy)
    yield "    }"
    yield "}"


def _judged(check: HttpCheck, proxy: Proxy) -> Iterator[str]:
    """The certificate of the workload, as its health check judges it."""
    assert check.tls is not None
    yield "        proxy_ssl_verify on;"
    yield "        proxy_ssl_server_name on;"
    yield f"        proxy_ssl_name {check.tls.server_name or proxy.server_name};"
    yield f"        proxy_ssl_trusted_certificate {_quoted(check.tls.ca or '')};"


def _port(placement: Placement, proxy: Proxy) -> Port:
    for port in placement.configuration.ports:
        if port.container == proxy.port and port.host is not None and port.protocol == "tcp":
            return port
    raise InvalidAction(f"{placement.id}: proxy: port {proxy.port} is not published at a port of the host")


def _address(port: Port) -> str:
    address = EVERYWHERE.get(port.address, port.address)
    return f"[{address}]:{port.host}" if ":" in address else f"{address}:{port.host}"


def _asked(health: Health | None, proxy: Proxy) -> HttpCheck | None:
    """The check of the very port that the proxy asks."""
    check = health.check if health else None
    return check if isinstance(check, HttpCheck) and check.port == proxy.port else None


def _patience(health: Health | None) -> str:
    """Without a health check nobody has said when it counts as ill."""
    if health is None:
        return "max_fails=0"
    seconds = max(1, -(-(health.interval * health.successes) // type(health.interval)(seconds=1)))
    return f"max_fails={health.successes} fail_timeout={seconds}s"


def _quoted(path: str) -> str:
    """A path as nginx reads it: it knows variables in none of these, and backslashes take the meaning from quotes."""
    if not path.isprintable():
        raise InvalidAction("health.http.tls.ca: nginx takes no path with control characters")
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
