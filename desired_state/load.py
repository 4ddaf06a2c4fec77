"""From a tree of files to what it means, or to everything that is wrong with it."""

from __future__ import annotations

from desired_state import declarations, strict
from desired_state.findings import Notes
from desired_state.resolve import Connections, Resolved, resolve
from desired_state.sources.base import Tree


def load(tree: Tree, connections: Connections) -> Resolved:
    """All findings of the tree at once. Nothing is raised, whatever the bytes are.

    It is computation only: some seconds for ten thousand targets, so a daemon runs it in a worker thread.
    """
    notes = Notes()
    for finding in tree.findings:
        notes.add(finding)
    documents = [document for file in sorted(tree.files) for document in strict.read(file, tree.files[file], notes)]
    return resolve(declarations.read(documents, notes), connections, notes, revision=tree.revision)
