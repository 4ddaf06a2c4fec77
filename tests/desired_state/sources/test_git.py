"""A git repository as a source: what is read of it, what is refused, and the word that each refusal has."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import asyncssh
import pytest

from desired_state.load import load
from desired_state.sources.base import InForce, SourceUnavailable
from desired_state.sources.git import Git, Repository
from desired_state.sources.git_trust import Verify
from tests.desired_state.trees import CONNECTIONS, ENVIRONMENT, RELEASE, TARGET
from tests.harness.gits import Served, Work, git, served
from tests.harness.sshd import Sshd

DOCUMENTS = {
    "deploy/release.yaml": RELEASE,
    "deploy/staging/environment.yaml": ENVIRONMENT,
    "deploy/staging/targets.yml": TARGET,
    "src/app.py": "print()\n",
}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    made = Work(tmp_path)
    made.commit(DOCUMENTS)
    return made


@pytest.fixture
def web(work: Work) -> Iterator[Served]:
    with served(work.bare.parent) as server:
        yield server


def source(work: Work, secret: str | None = None, **changes: Any) -> Git:
    async def told() -> str:
        assert secret is not None
        return secret

    repository = Repository(**({"url": work.url, "ref": "main", "path": "deploy", "deadline": 20.0} | changes))
    return Git(repository, work.home / "clone", told if secret else None)


async def refusal(of: Git, in_force: str | None = None, **more: Any) -> SourceUnavailable:
    with pytest.raises(SourceUnavailable) as caught:
        await of.read(InForce(revision=in_force, **more))
    return caught.value


# -- what is read -----------------------------------------------------------------------------------------------------


async def test_documents_below_the_path_are_read_without_a_checkout(work: Work) -> None:
    tree = await source(work).read()
    assert sorted(tree.files) == ["release.yaml", "staging/environment.yaml", "staging/targets.yml"]
    assert tree.files["release.yaml"] == RELEASE.encode()
    assert tree.revision == work.head()
    assert not load(tree, CONNECTIONS).findings
    assert not list((work.home / "clone").rglob("*.yaml"))


async def test_a_push_is_seen_at_the_next_read(work: Work) -> None:
    of = source(work)
    first = await of.read()
    second = work.commit({"deploy/release.yaml": RELEASE + "# more\n"})
    tree = await of.read(InForce(revision=first.revision))
    assert tree.revision == second
    assert tree.content != first.content


async def test_a_commit_elsewhere_has_the_same_content(work: Work) -> None:
    of = source(work)
    first = await of.read()
    work.commit({"src/app.py": "print(1)\n"})
    second = await of.read(InForce(revision=first.revision))
    assert second.revision != first.revision
    assert second.content == first.content


async def test_links_submodules_and_what_is_too_large_are_findings_and_hidden_files_are_not_read(work: Work) -> None:
    (work.tree / "deploy/link.yaml").symlink_to("/etc/passwd")
    work.commit(
        {"deploy/large.yaml": b"#" * (1 << 20) + b"\n", "deploy/.hidden/x.yaml": "x: [", "deploy/notes.md": "x"}
    )
    git(work.tree, "update-index", "--add", "--cacheinfo", f"160000,{work.head()},deploy/sub")
    git(work.tree, "commit", "--quiet", "--message", "submodule")
    work.push()
    tree = await source(work).read()
    found = {finding.file: finding.code for finding in tree.findings}
    assert found == {"large.yaml": "FILE_TOO_LARGE", "link.yaml": "FILE_LINK", "sub": "SUBMODULE"}
    assert len(tree.files) == 3


async def test_hooks_and_filters_of_a_repository_never_run(work: Work, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    work.commit({"deploy/.gitattributes": "*.yaml filter=trap export-ignore\n", ".gitattributes": "* filter=trap\n"})
    of = source(work)
    await of.read()
    hooks = of._git.repository / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("reference-transaction", "post-checkout", "pre-auto-gc"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {trap}\n")
        (hooks / name).chmod(0o755)
    with (of._git.repository / "config").open("a") as config:
        config.write(f'[filter "trap"]\n\tsmudge = touch {trap}\n\tclean = touch {trap}\n')
    work.commit({"deploy/release.yaml": RELEASE + "# more\n"})
    await of.read()
    assert not trap.exists()


async def test_one_bad_file_of_ten_is_a_finding_of_the_whole(work: Work) -> None:
    work.commit({f"deploy/more/{number}.yaml": TARGET.replace("t1", f"m{number}") for number in range(9)})
    work.commit({"deploy/more/4.yaml": "kind: Target\n  broken"})
    resolved = load(await source(work).read(), CONNECTIONS)
    assert {finding.file for finding in resolved.findings} == {"more/4.yaml"}
    assert not resolved.environments


# -- what is refused, each by its own word ----------------------------------------------------------------------------


async def test_a_branch_that_was_set_back_is_not_followed_unless_it_is_allowed(work: Work) -> None:
    for number in range(3):
        work.commit({"deploy/release.yaml": RELEASE + f"# {number}\n"})
    of, newest = source(work), work.head()
    await of.read()
    older = work.back(3)
    error = await refusal(of, newest)
    assert (error.reason, error.revision) == ("HistoryRewritten", older)
    assert (await of.read(InForce(revision=newest, allowed=older))).revision == older
    assert (await source(work, rewrites=True).read(InForce(revision=newest))).revision == older


async def test_history_is_held_against_the_accepted_commit_also_by_a_new_clone(work: Work) -> None:
    newest = work.commit({"deploy/release.yaml": RELEASE + "# new\n"})
    work.back(1)
    assert (await refusal(source(work), newest)).reason == "HistoryRewritten"


async def test_a_repository_without_a_commit_has_no_branch(tmp_path: Path) -> None:
    assert (await refusal(source(Work(tmp_path)))).reason == "BranchMissing"


async def test_an_emptied_branch_reads_as_nothing_and_a_deleted_path_is_refused(work: Work) -> None:
    work.commit(dict.fromkeys(name for name in DOCUMENTS if name.startswith("deploy")))
    assert (await refusal(source(work))).reason == "PathMissing"
    assert not (await source(work, path="src").read()).files


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (403, "SourceForbidden"),
        (401, "SourceUnauthenticated"),
        (404, "SourceMissing"),
        (503, "SourceDown"),
        (302, "SourceRedirected"),
    ],
)
async def test_each_answer_of_a_server_has_its_own_word(work: Work, web: Served, status: int, reason: str) -> None:
    of = source(work, url=web.url())
    await of.read()
    web.status, web.location = status, f"http://localhost:{web.port}/shop.git/info/refs?service=git-upload-pack"
    seen = len(web.seen)
    assert (await refusal(of)).reason == reason
    assert len(web.seen) == seen + 1  # nothing was followed, nothing asked twice
    web.status = None
    assert (await of.read()).revision == work.head()


async def test_a_server_that_is_gone_is_down(work: Work) -> None:
    with served(work.bare.parent) as web:
        url = web.url()
    assert (await refusal(source(work, url=url))).reason == "SourceDown"


async def test_a_server_of_one_byte_now_and_then_is_slow_and_nothing_of_the_fetch_lives_on(
    work: Work, web: Served
) -> None:
    web.pause = 0.3
    with anyio.fail_after(30):
        assert (await refusal(source(work, url=web.url(), deadline=1.0))).reason == "SourceSlow"
    listed = (await anyio.run_process(["ps", "-eo", "args"])).stdout.decode()
    assert not [line for line in listed.splitlines() if web.url() in line and "git" in line]


async def test_a_pack_above_the_limit_is_too_large(work: Work, web: Served) -> None:
    work.commit({"src/large.bin": os.urandom(3 << 20)})
    error = await refusal(source(work, url=web.url(), size=1 << 20))
    assert error.reason == "SourceTooLarge"
    left = [path for path in (work.home / "clone").rglob("*") if path.is_file() and path.stat().st_size > 1 << 20]
    assert not left


@pytest.mark.parametrize("url", ["ext::sh -c 'touch {trap}'", "fd::3", "git://127.0.0.1/shop.git"])
async def test_other_ways_to_a_repository_are_not_gone(work: Work, tmp_path: Path, url: str) -> None:
    of = source(work, url=url.format(trap=tmp_path / "trap"))
    assert (await refusal(of)).reason == "SourceRefused"
    assert not (tmp_path / "trap").exists()


# -- credentials ------------------------------------------------------------------------------------------------------


async def test_a_token_is_sent_in_a_header_and_stands_in_no_argument(
    work: Work, web: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.login = "git:s3cret-token"
    argvs: list[list[str]] = []
    opened = anyio.open_process

    async def spied(argv: Any, **words: Any) -> Any:
        argvs.append([str(word) for word in argv])
        return await opened(argv, **words)

    monkeypatch.setattr(anyio, "open_process", spied)
    assert (await source(work, "s3cret-token", url=web.url()).read()).revision == work.head()
    assert "s3cret" not in str(argvs)
    config = (work.home / "clone/clone.git/config").read_text()
    assert "s3cret" not in config


async def test_without_or_with_another_token_the_server_is_not_asked_for_a_prompt(work: Work, web: Served) -> None:
    web.login = "git:right"
    assert (await refusal(source(work, url=web.url()))).reason == "SourceUnauthenticated"
    assert (await refusal(source(work, "wrong", url=web.url()))).reason == "SourceUnauthenticated"


# -- signatures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    for name in ("ann", "eve"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(tmp_path / name)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
    allowed = tmp_path / "allowed_signers"
    allowed.write_text(f"ann@example.com {(tmp_path / 'ann.pub').read_text()}")
    return {"ann": tmp_path / "ann", "eve": tmp_path / "eve", "allowed": allowed}


def sign(work: Work, key: Path) -> None:
    work.settings = ["-c", "gpg.format=ssh", "-c", f"user.signingKey={key}", "-c", "commit.gpgSign=true"]


async def test_a_commit_signed_by_an_allowed_signer_is_accepted_with_the_signer(
    work: Work, keys: dict[str, Path]
) -> None:
    sign(work, keys["ann"])
    work.commit({"deploy/release.yaml": RELEASE + "# signed\n"})
    of = source(work, verify=Verify(method="ssh", keys=keys["allowed"]))
    signer = (await of.read()).signer
    assert signer is not None
    assert signer.startswith("ann@example.com (SHA256:")


async def test_a_good_signature_by_a_key_that_nobody_knows_is_refused(work: Work, keys: dict[str, Path]) -> None:
    sign(work, keys["eve"])
    work.commit({"deploy/release.yaml": RELEASE + "# signed\n"})
    of = source(work, verify=Verify(method="ssh", keys=keys["allowed"]))
    assert (await refusal(of)).reason == "SignatureInvalid"


async def test_an_unsigned_commit_is_refused_by_its_own_word(work: Work, keys: dict[str, Path]) -> None:
    of = source(work, verify=Verify(method="ssh", keys=keys["allowed"]))
    error = await refusal(of)
    assert (error.reason, error.revision) == ("SignatureMissing", work.head())


async def test_all_commits_since_the_accepted_one_are_asked_for_when_it_says_so(
    work: Work, keys: dict[str, Path]
) -> None:
    sign(work, keys["ann"])
    first = work.commit({"deploy/release.yaml": RELEASE + "# 1\n"})
    work.settings = []
    work.commit({"deploy/release.yaml": RELEASE + "# 2\n"}, push=False)
    sign(work, keys["ann"])
    last = work.commit({"deploy/release.yaml": RELEASE + "# 3\n"})
    tip = source(work, verify=Verify(method="ssh", keys=keys["allowed"]))
    assert (await tip.read(InForce(revision=first))).revision == last
    whole = source(work, verify=Verify(method="ssh", keys=keys["allowed"], commits="all"))
    assert (await refusal(whole, first)).reason == "SignatureMissing"


async def test_a_missing_or_empty_file_of_signers_lets_nobody_in(work: Work, keys: dict[str, Path]) -> None:
    sign(work, keys["ann"])
    work.commit({"deploy/release.yaml": RELEASE + "# signed\n"})
    of = source(work, verify=Verify(method="ssh", keys=keys["allowed"]))
    keys["allowed"].write_text("")
    assert (await refusal(of)).reason == "SignatureInvalid"
    keys["allowed"].unlink()
    assert (await refusal(of)).reason == "SignatureInvalid"


@pytest.fixture
def gpg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Two people with keys; the public key of one."""
    homes = {name: tmp_path_factory.mktemp(name[0]) for name in ("ann", "eve")}
    made: dict[str, Any] = {}
    for name, home in homes.items():
        home.chmod(0o700)
        words = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", "--quick-gen-key"]
        subprocess.run([*words, f"{name}@example.com", "ed25519", "sign"], check=True, capture_output=True)
        made[name] = home
    export = ["gpg", "--homedir", str(homes["ann"]), "--armor", "--export"]
    made["keys"] = tmp_path_factory.mktemp("keys") / "ann.asc"
    made["keys"].write_bytes(subprocess.run(export, check=True, capture_output=True).stdout)
    yield made
    for home in homes.values():
        with suppress(subprocess.SubprocessError):
            subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, timeout=10)


def sign_gpg(work: Work, home: Path, name: str) -> None:
    program = work.home / f"gpg-{name}"
    program.write_text(f'#!/bin/sh\nexec gpg --homedir {home} "$@"\n')
    program.chmod(0o755)
    who = ["-c", f"user.signingKey={name}@example.com", "-c", "commit.gpgSign=true"]
    work.settings = ["-c", "gpg.format=openpgp", "-c", f"gpg.program={program}", *who]


async def test_gpg_signatures_are_held_against_the_file_of_public_keys(work: Work, gpg: dict[str, Any]) -> None:
    of = source(work, verify=Verify(method="gpg", keys=gpg["keys"]))
    assert (await refusal(of)).reason == "SignatureMissing"
    sign_gpg(work, gpg["eve"], "eve")
    work.commit({"deploy/release.yaml": RELEASE + "# eve\n"})
    assert (await refusal(of)).reason == "SignatureInvalid"
    sign_gpg(work, gpg["ann"], "ann")
    work.commit({"deploy/release.yaml": RELEASE + "# ann\n"})
    signer = (await of.read()).signer
    assert signer is not None
    assert signer.startswith("ann@example.com (")


async def test_a_signature_of_the_other_method_is_none(work: Work, gpg: dict[str, Any], keys: dict[str, Path]) -> None:
    sign_gpg(work, gpg["ann"], "ann")
    work.commit({"deploy/release.yaml": RELEASE + "# ann\n"})
    of = source(work, verify=Verify(method="ssh", keys=keys["allowed"]))
    assert (await refusal(of)).reason == "SignatureInvalid"


# -- getting over it --------------------------------------------------------------------------------------------------


async def test_a_damaged_clone_is_made_anew(work: Work) -> None:
    of = source(work)
    await of.read()
    work.commit({"deploy/release.yaml": RELEASE + "# new\n"})
    for pack in (work.home / "clone").rglob("*.pack"):
        pack.chmod(0o644)
        pack.write_bytes(b"damaged")
    assert (await of.read()).revision == work.head()


async def test_locks_of_a_process_that_was_killed_are_taken_away(work: Work) -> None:
    of = source(work)
    await of.read()
    (of._git.repository / "refs/holdfast/fetched.lock").touch()
    work.commit({"deploy/release.yaml": RELEASE + "# new\n"})
    assert (await of.read()).revision == work.head()


# -- over ssh ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Sshd]:
    made = Sshd(tmp_path / "sshd")
    made.start()
    yield made
    made.stop()


def over_ssh(work: Work, host: Sshd, key: str | None = None, known: str | None = None) -> Git:
    hosts = work.home / "known hosts"
    hosts.write_text(f"[{host.address}]:{host.port} {known or host.public}\n")
    url = f"ssh://{host.user}@{host.address}:{host.port}{work.bare}"
    return source(work, key or host.key.export_private_key().decode(), url=url, known_hosts=hosts)


async def test_a_key_is_used_for_the_fetch_and_gone_afterwards(work: Work, host: Sshd) -> None:
    assert (await over_ssh(work, host).read()).revision == work.head()
    left = [path for path in (work.home / "clone").rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert not left


async def test_a_host_with_another_key_than_the_known_one_is_not_talked_to(work: Work, host: Sshd) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519")
    public = other.export_public_key().decode().strip()
    assert (await refusal(over_ssh(work, host, known=public))).reason == "SourceUntrusted"


async def test_a_key_that_the_host_does_not_know_is_refused(work: Work, host: Sshd) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    assert (await refusal(over_ssh(work, host, key=other))).reason == "SourceUnauthenticated"
