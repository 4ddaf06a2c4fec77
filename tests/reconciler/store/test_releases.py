"""A release is kept once and never changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import text

from reconciler.store import releases
from reconciler.store.errors import ReleaseDiffers, Violated
from reconciler.store.store import Store
from stickers.names import ReleaseName
from tests.reconciler.core.builders import NOW, fleet

RELEASE = fleet(1).release


async def test_a_release_comes_back_as_it_was(store: Store) -> None:
    await store.write(lambda c: releases.keep(c, RELEASE, NOW))
    found = await store.read(lambda c: releases.load(c, "default", RELEASE.name))
    assert found == RELEASE
    assert found.digest == RELEASE.digest


async def test_the_same_release_may_be_kept_again(store: Store) -> None:
    for _ in range(2):
        await store.write(lambda c: releases.keep(c, RELEASE, NOW))


async def test_where_it_was_resolved_from_is_not_what_it_is(store: Store) -> None:
    await store.write(lambda c: releases.keep(c, RELEASE, NOW))
    parts = {name: replace(part, resolved_from="v1") for name, part in RELEASE.components.items()}
    await store.write(lambda c: releases.keep(c, replace(RELEASE, components=parts), NOW))
    assert await store.read(lambda c: releases.load(c, "default", RELEASE.name)) == RELEASE


async def test_other_content_under_the_same_name_is_an_error(store: Store) -> None:
    await store.write(lambda c: releases.keep(c, RELEASE, NOW))
    other = replace(RELEASE, commit="another")
    with pytest.raises(ReleaseDiffers, match=r"release shop@1\.0\.0 is kept as sha256:") as caught:
        await store.write(lambda c: releases.keep(c, other, NOW))
    assert (caught.value.kept, caught.value.offered) == (RELEASE.digest, other.digest)
    assert await store.read(lambda c: releases.load(c, "default", RELEASE.name)) == RELEASE


async def test_the_same_name_in_another_project_is_another_release(store: Store) -> None:
    other = replace(RELEASE, project="another", commit="another")
    await store.write(lambda c: releases.keep(c, RELEASE, NOW))
    await store.write(lambda c: releases.keep(c, other, NOW))
    assert await store.read(lambda c: releases.load(c, "another", RELEASE.name)) == other


async def test_a_release_that_is_not_kept_is_none(store: Store) -> None:
    assert await store.read(lambda c: releases.load(c, "default", ReleaseName("shop@9.9.9"))) is None


@pytest.mark.parametrize("statement", ["update release set digest = 'x'", "delete from release"])
async def test_nobody_changes_a_kept_release(store: Store, statement: str) -> None:
    await store.write(lambda c: releases.keep(c, RELEASE, NOW))
    with pytest.raises(Violated, match="release_no_"):
        await store.write(lambda c: c.execute(text(statement)))
