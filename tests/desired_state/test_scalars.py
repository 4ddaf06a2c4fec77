from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desired_state import scalars
from desired_state.model import Port, Volume
from stickers.names import Artifact, Digest, InvalidName

A = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("grammar", "text", "meaning"),
    [
        (scalars.duration, "500ms", timedelta(milliseconds=500)),
        (scalars.duration, "30s", timedelta(seconds=30)),
        (scalars.duration, "5m", timedelta(minutes=5)),
        (scalars.duration, "1h", timedelta(hours=1)),
        (scalars.duration, "8760h", timedelta(days=365)),
        (scalars.span, "0s", timedelta(0)),
        (scalars.size, "256Mi", 256 << 20),
        (scalars.size, "1G", 10**9),
        (scalars.size, "1024Ki", 1 << 20),
        (scalars.size, "2Gi", 2 << 30),
        (scalars.cpus, 2, 2000),
        (scalars.cpus, 0.5, 500),
        (scalars.cpus, "0.5", 500),
        (scalars.cpus, "1.125", 1125),
        (scalars.cpus, 0.1, 100),
        (scalars.wave, 3, (3, False)),
        (scalars.wave, "25%", (25, True)),
        (scalars.wave, "100%", (100, True)),
        (scalars.percent, "0%", 0),
        (scalars.percent, "100%", 100),
        (scalars.port, "8080", Port(container=8080)),
        (scalars.port, "8081:8080", Port(container=8080, host=8081)),
        (scalars.port, "127.0.0.1:8081:8080", Port(container=8080, host=8081)),
        (scalars.port, "0.0.0.0:53:5353/udp", Port(container=5353, host=53, address="0.0.0.0", protocol="udp")),
        (scalars.port, "8080/tcp", Port(container=8080)),
        (scalars.port, "[::1]:80:8080", Port(container=8080, host=80, address="::1")),
        (scalars.port, "[0:0:0:0:0:0:0:1]:80:8080", Port(container=8080, host=80, address="::1")),
        (scalars.volume, "data:/var/lib/x", Volume(source="data", destination="/var/lib/x")),
        (scalars.volume, "/srv/x:/x:ro", Volume(source="/srv/x", destination="/x", read_only=True)),
        (scalars.secret, "env:DB_PASSWORD", "env:DB_PASSWORD"),
        (scalars.secret, "file:/etc/x.json#a.b", "file:/etc/x.json#a.b"),
        (scalars.secret, "file:/etc/x", "file:/etc/x"),
        (scalars.file, "/etc/shop/ca.pem", "/etc/shop/ca.pem"),
        (scalars.server_name, "shop.example.com", "shop.example.com"),
        (scalars.secret, "vault:kv/shop/prod#password", "vault:kv/shop/prod#password"),
        (scalars.secret, "aws-sm:shop/prod", "aws-sm:shop/prod"),
        (
            scalars.secret,
            "aws-sm:arn:aws:secretsmanager:eu-central-1:1:secret:x-AbC#a",
            "aws-sm:arn:aws:secretsmanager:eu-central-1:1:secret:x-AbC#a",
        ),
        (scalars.secret, "aws-ssm:/shop/prod.x#a", "aws-ssm:/shop/prod.x#a"),
        (scalars.secret, "sops:/etc/x.yaml#a.b", "sops:/etc/x.yaml#a.b"),
        (scalars.address, "https://git.example.com/x.git", "https://git.example.com/x.git"),
        (scalars.address, "ssh://git@git.example.com/x.git", "ssh://git@git.example.com/x.git"),
        (scalars.user, "1000:1000", "1000:1000"),
        (scalars.user, "www-data", "www-data"),
        (scalars.http_path, "/health?deep=1", "/health?deep=1"),
        (scalars.http_path, "/", "/"),
        (scalars.image, f"r.example.com:5000/shop/api@{A}", Artifact("r.example.com:5000/shop/api", Digest(A))),
        (scalars.moment, "2026-11-22T06:00:00+01:00", datetime(2026, 11, 22, 5, tzinfo=UTC)),
        (scalars.moment, "2026-11-22T06:00Z", datetime(2026, 11, 22, 6, tzinfo=UTC)),
    ],
)
def test_a_text_means_what_it_says(grammar: Callable[[object], object], text: object, meaning: object) -> None:
    assert grammar(text) == meaning


@pytest.mark.parametrize(
    ("grammar", "texts"),
    [
        (
            scalars.duration,
            ["", "30", 30, "0s", "-1s", "1.5s", "1 s", "s", "1d", "1h30m", "9999999h", "١s", None, True, "5s\n"],
        ),
        (scalars.span, ["", "5", "-0s", None]),
        (scalars.size, ["", "256", 256, "0Mi", "1k", "1MB", "1.5Gi", "-1Gi", "512Ki", "999999999999Ti", None]),
        (scalars.cpus, ["", 0, "0", "0.0001", -1, "1e3", True, None, "two", 99999, float("inf"), float("nan")]),
        (scalars.wave, [0, -1, "0%", "101%", "25 %", "25", 2.5, True, None, "", 10**9]),
        (scalars.percent, [30, "30", "101%", "-1%", None, ""]),
        (
            scalars.port,
            [
                8080,
                "",
                "0",
                "65536",
                "8081:0",
                "a",
                "80:80:80",
                "1.2.3.4.5:80:80",
                "999.0.0.1:80:80",
                "80-90:80-90",
                "::1:80:80",
                "80/sctp",
                "80:",
                ":80",
                "127.0.0.1::80",
                " 80",
                "８０",
                None,
            ],
        ),
        (
            scalars.volume,
            [
                "",
                "data",
                "data:x",
                "../x:/x",
                "/srv/../x:/x",
                "/srv/x:/x/..",
                "/:/x",
                "data:/",
                "/srv//x:/x",
                "/srv/x/:/x",
                "data:/x:rw",
                "data:/x:ro:ro",
                "a b:/x",
                "~/x:/x",
                "./x:/x",
                None,
                5,
            ],
        ),
        (
            scalars.secret,
            [
                *("", "hunter2", "env:", "env:A B", "file:x", "file:", "env:9", "ENV:A", "file:/x#"),
                *("vault:kv/x", "vault:kv#y", "vault:/kv/x#y", "vault:kv/../x#y", "vault:kv/./x#y", "vault:kv//x#y"),
                *("vault:kv/x?a#y", "vault:kv/%2e%2e/x#y", "vault:kv/x/#y", "vault:kv/a b#y", "vault:kv/..#y"),
                *("aws-sm:", "aws-sm:a b", "aws-sm:x#", "aws-ssm:shop", "aws-ssm:/", "aws-ssm:/a//b", "aws-ssm:/a/"),
                *("sops:/x.yaml", "sops:x.yaml#a", "sops:#a", "sopps:/x#a"),
            ],
        ),
        (
            scalars.file,
            ["", "/", "ca.pem", "~/ca.pem", "/etc/../ca.pem", "/etc/./ca.pem", "/etc//ca.pem", "/etc/", "/a\0"],
        ),
        (
            scalars.server_name,
            ["", "https://x", "x:443", "a b", "-a", "a-", ".a", "a..b", "a" * 64, "ü.example", "*.x"],
        ),
        (scalars.user, ["", 1000, "a b", ":1", "1:", "-x", "a:b:c", None]),
        (scalars.http_path, ["", "health", "//evil.example.com", "/a b", "/a#b", "/ü", "@evil", "http://x/"]),
        (
            scalars.image,
            [
                "",
                "api",
                "r/api:v1",
                f"r/api:v1@{A}",
                f"R/Api@{A}",
                "r/api@sha256:" + "a" * 63,
                "r/api@sha256:" + "A" * 64,
                f"r/api@{A}@{A}",
                f"@{A}",
                f"r/../api@{A}",
                f"r/api @{A}",
                "r/api@md5:" + "a" * 32,
                None,
                5,
            ],
        ),
        (
            scalars.moment,
            [
                "",
                "2026-11-22",
                "2026-11-22T06:00:00",
                "2026-13-22T06:00:00Z",
                "2026-02-30T06:00:00Z",
                "now",
                None,
                5,
                "2026-11-22T25:00:00Z",
                "2026-11-22 06:00:00Z",
            ],
        ),
        (scalars.variable, ["", "9A", "A B", "A=B", "A" * 300]),
        (scalars.label, ["", "-a", "a-", "a b", "a" * 200]),
        (scalars.network, ["", "-a", "a/b"]),
        (
            scalars.address,
            ["https://token@git.example.com/x", "https://me:pw@git.example.com/x", "ssh://git:pw@host/x"],
        ),
        (scalars.said, ["", "  ", None, 5]),
    ],
)
def test_what_breaks_the_grammar_is_refused_with_its_rule(
    grammar: Callable[[object], object], texts: list[object]
) -> None:
    for text in texts:
        with pytest.raises(InvalidName) as refused:
            grammar(text)
        assert refused.value.expected


@given(st.text(alphabet="0123456789.:/[]udptc%mshkKMGi-", max_size=20))
@settings(deadline=None)
def test_no_text_makes_a_grammar_fail_otherwise(text: str) -> None:
    for grammar in (
        scalars.duration,
        scalars.size,
        scalars.cpus,
        scalars.wave,
        scalars.percent,
        scalars.port,
        scalars.volume,
    ):
        with suppress(InvalidName):
            grammar(text)
