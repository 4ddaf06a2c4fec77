"""What an nginx before a component is told: golden bytes, and nginx itself takes them and asks the component."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from desired_state.health import CheckTls, Health, HttpCheck, TcpCheck
from desired_state.model import Configuration, Placement, Port, Proxy
from drivers import nginx
from drivers.errors import InvalidAction
from tests.drivers.docker import certificates
from tests.drivers.docker.samples import placement as sample

GOLDEN = Path(__file__).with_name("golden")
PROXY = Proxy(server_name="shop.example.com", port=8080)
PLAIN = replace(
    sample(Configuration(ports=(Port(container=8080, host=8081), Port(container=9090)))),
    proxy=PROXY,
    health=Health(check=HttpCheck(port=8080, path="/health"), interval=timedelta(seconds=1.5)),
)
ENCRYPTED = replace(
    PLAIN,
    proxy=replace(PROXY, listen=8443),
    configuration=Configuration(ports=(Port(container=8080, host=8081, address="::"),)),
    health=Health(check=HttpCheck(port=8080, tls=CheckTls(ca="/etc/ssl/my ca.pem", server_name="inside.example.com"))),
)


@pytest.fixture
def program() -> str:
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        pytest.skip("there is no nginx")
    return found


def text(of: Placement) -> str:
    [file] = nginx.configs([of])
    return file.text


@pytest.mark.parametrize(("of", "name"), [(PLAIN, "plain.nginx.conf"), (ENCRYPTED, "encrypted.nginx.conf")])
def test_the_file_is_the_one_that_was_agreed_on(of: Placement, name: str) -> None:
    assert text(of) == (GOLDEN / name).read_text()


def test_a_component_without_a_proxy_has_no_file() -> None:
    assert nginx.configs([replace(PLAIN, proxy=None)]) == ()


def test_a_check_of_another_port_says_nothing_of_how_this_one_is_asked() -> None:
    other = Health(check=HttpCheck(port=9090, tls=CheckTls(ca="/ca.pem")))
    assert "proxy_pass http://" in text(replace(PLAIN, health=other))
    assert "max_fails=0" in text(replace(PLAIN, health=None))
    assert "max_fails=3" in text(replace(PLAIN, health=Health(check=TcpCheck(port=8080))))


def test_a_port_that_is_not_published_is_refused() -> None:
    with pytest.raises(InvalidAction, match="proxy: port 9090"):
        nginx.configs([replace(PLAIN, proxy=replace(PROXY, port=9090))])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def whole(file: str, tmp_path: Path) -> Path:
    """A configuration that includes the file and touches nothing outside."""
    (tmp_path / "proxy.conf").write_text(file)
    places = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off;\nmaster_process off;\npid {tmp_path}/pid;\nerror_log {tmp_path}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{places}include {tmp_path}/proxy.conf;\n}}\n"
    )
    return config


@pytest.mark.parametrize("of", [PLAIN, ENCRYPTED], ids=["plain", "encrypted"])
def test_nginx_takes_the_file(of: Placement, program: str, tmp_path: Path) -> None:
    assert of.proxy is not None
    certificates.write(tmp_path)
    certificate = (tmp_path / "ca.pem").rename(tmp_path / "my ca.pem")
    file = text(replace(of, proxy=replace(of.proxy, listen=free_port()))).replace(
        "/etc/ssl/my ca.pem", str(certificate)
    )
    done = subprocess.run([program, "-t", "-c", whole(file, tmp_path)], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def serving() -> Iterator[int]:
    class Says(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"asked as {self.headers['Host']}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Says) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


def test_nginx_asks_the_component_by_it(program: str, serving: int, tmp_path: Path) -> None:
    listen = free_port()
    of = replace(
        PLAIN,
        proxy=replace(PROXY, listen=listen),
        configuration=Configuration(ports=(Port(container=8080, host=serving),)),
    )
    process = subprocess.Popen([program, "-c", whole(text(of), tmp_path)], stderr=subprocess.DEVNULL)
    try:
        assert answer(listen) == "asked as shop.example.com"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def answer(port: int) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": "shop.example.com"})
    until = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as found:
                return str(found.read().decode())
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
