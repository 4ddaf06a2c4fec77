"""Trees of documents for the signer to read."""

from __future__ import annotations

from pathlib import Path

from api.runtimes import ConnectionModels
from desired_state.load import load
from desired_state.model import DesiredState
from desired_state.sources.base import Tree
from stickers import digest


def documents(version: str = "1", *, root: str = "/srv/web", target: bool = True) -> dict[str, str]:
    """One environment with one target behind an agent."""
    image = f"registry.example.com/shop/api@{digest.of(version)}"
    head = "apiVersion: holdfast/v1\n"
    tree = {
        "release.yaml": f'{head}kind: Release\nname: shop\nversion: "{version}"\ncomponents: {{api: "{image}"}}\n',
        "staging.yaml": f"{head}kind: Environment\nname: staging\nrelease: shop@{version}\n"
        "components: {api: {command: [serve], health: {tcp: {port: 8080}}}}\n",
    }
    if target:
        tree["web-1.yaml"] = (
            f"{head}kind: Target\nname: web-1\nenvironment: staging\ndriver: process\n"
            f"connection: {{via: agent, root: {root}}}\n"
        )
    return tree


def written(directory: Path, tree: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.yaml"):
        if old.name not in tree:
            old.unlink()
    for name, text in tree.items():
        (directory / name).write_text(text)


def state(tree: dict[str, str]) -> DesiredState:
    """What the server makes of the same documents."""
    files = {name: text.encode() for name, text in tree.items()}
    resolved = load(Tree(files=files, revision="r"), ConnectionModels())
    assert not resolved.findings, resolved.findings
    return next(iter(resolved.environments.values()))
