"""Whose tasks are believed, while the signer's key is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from drivers.agent import protocol
from drivers.agent.duty.clock import Clock
from drivers.agent.protocol import Code, Trust, Verb
from drivers.contract import Look
from stickers.signature import Signer
from tests.drivers.agent.memory import on
from tests.drivers.agent.scene import SIGNER, Scene, signer
from tests.drivers.memory_bench import MemoryBench
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()
NEXT = signer(8)


def clock() -> Clock:
    time = asyncio.get_running_loop().time
    return Clock(since_boot=time, wall=time, boot_id="one")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with on(MemoryBench(), tmp_path, clock=clock()) as scene:
        yield scene


async def trust(scene: Scene, public: str, overlap: int = 60) -> Code:
    body = protocol.body(Trust(public=public, overlap=overlap))
    return (await scene.answer(scene.task(Verb.TRUST, body), body))[0].code


async def asked_by(scene: Scene, who: Signer) -> Code:
    scene.signer = who
    body = protocol.body(Look(target=scene.target))
    result, _ = await scene.answer(scene.task(Verb.HEALTH_CHECK, body), body)
    return result.code


async def test_both_keys_are_believed_for_a_while_and_then_the_next_alone(scene: Scene) -> None:
    assert await asked_by(scene, NEXT) is Code.FORGED
    scene.signer = SIGNER
    assert await trust(scene, NEXT.key.public.hex()) is Code.DONE
    assert await asked_by(scene, NEXT) is Code.DONE
    assert await asked_by(scene, SIGNER) is Code.DONE
    await anyio.sleep(61)
    assert await asked_by(scene, NEXT) is Code.DONE
    assert await asked_by(scene, SIGNER) is Code.FORGED


async def test_the_next_run_believes_the_same(tmp_path: Path) -> None:
    bench = MemoryBench()
    async with on(bench, tmp_path, clock=clock()) as scene:
        await trust(scene, NEXT.key.public.hex(), overlap=60)
    await anyio.sleep(30)
    async with on(bench, tmp_path, clock=clock()) as scene:
        assert await asked_by(scene, SIGNER) is Code.DONE
        await anyio.sleep(31)
        assert await asked_by(scene, SIGNER) is Code.FORGED
        assert await asked_by(scene, NEXT) is Code.DONE


@pytest.mark.parametrize("public", ["", "zz", "00"])
async def test_what_is_no_key_is_not_trusted(scene: Scene, public: str) -> None:
    assert await trust(scene, public) is Code.FAILED
    assert await asked_by(scene, SIGNER) is Code.DONE


async def test_nobody_names_himself(scene: Scene) -> None:
    scene.signer = NEXT
    assert await trust(scene, NEXT.key.public.hex()) is Code.FORGED
