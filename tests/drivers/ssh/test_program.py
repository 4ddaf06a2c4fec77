"""What is brought to hosts."""

from __future__ import annotations

from drivers.ssh.wire import brought


def test_a_program_is_packed_once_for_all_hosts() -> None:
    assert brought(b"print()") is brought(bytes(bytearray(b"print()")))
    assert brought(b"print()").packed is brought(b"print()").packed


def test_another_program_is_another() -> None:
    assert brought(b"print(1)").digest != brought(b"print(2)").digest
