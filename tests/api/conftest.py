"""What the tests of the doors share: a store that is new has its schema already, since they are not about that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from reconciler.store import engines
from tests.reconciler.stores import lay


@pytest.fixture(scope="module", autouse=True)
def _laid() -> Iterator[None]:
    writer = engines.writer

    def laid(url: str, *more: Any) -> Any:
        if (file := engines.database_file(url)) is not None:
            lay(file)
        return writer(url, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "writer", laid)
        yield
