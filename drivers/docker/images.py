"""Images of an engine: brought by their exact digest, and collected when nobody needs them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from desired_state.model import Placement
from desired_state.secrets import SecretRef
from drivers.docker import compare
from drivers.docker.compare import Inspected
from drivers.docker.engine import Engine
from drivers.errors import Refused
from drivers.oci.credentials import Credentials

Secret = Callable[[SecretRef], Awaitable[str]]


async def bring(engine: Engine, placement: Placement, secret: Secret) -> Inspected:
    """The placement's image, which is on the engine and known to it by exactly that digest."""
    reference = str(placement.artifact)
    if found := await _known(engine, reference):
        return found
    login = await _login(placement, secret)
    await engine.pull(placement.artifact.repository, placement.artifact.digest, login)
    if found := await _known(engine, reference):
        return found
    raise Refused(f"the engine pulled {reference} and does not know the image by that digest")


async def _known(engine: Engine, reference: str) -> Inspected | None:
    image = await engine.image(reference)
    return image if image is not None and compare.is_known_by(image, reference) else None


async def _login(placement: Placement, secret: Secret) -> dict[str, str]:
    """The credentials in the engine's terms, resolved at this moment and kept nowhere."""
    reference = placement.configuration.registry_credentials
    if reference is None:
        return {}
    login = Credentials.parse(await secret(reference))
    registry = placement.artifact.repository.partition("/")[0]
    return {"username": login.username, "password": login.password, "serveraddress": registry}


async def discard(engine: Engine, references: Iterable[str]) -> None:
    """Never one that somebody has named, or that any container uses: such images are not ours to collect."""
    for reference in sorted(set(references)):
        if await engine.containers({"ancestor": [reference]}):
            continue
        image = await engine.image(reference)
        if image is not None and not image.get("RepoTags"):
            await engine.remove_image(reference)
