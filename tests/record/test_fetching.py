"""Fetching from repositories that somebody else prepared (threats 3.1-3.3)."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from activities.record.objects import ObjectStore
from schemas.error import Gen4Error, InfrastructureError, InputError, Refused

from .conftest import Repository


def names(objects: ObjectStore, tree: str) -> set[str]:
    return {entry.path for entry in objects.entries(tree)}


def test_branch_tag_head_and_id_are_resolved(objects: ObjectStore, repository: Repository) -> None:
    first = repository.git("rev-parse", "HEAD")
    repository.git("tag", "light")
    repository.git("tag", "--annotate", "--message", "m", "heavy")
    second = repository.commit({"new": "x"})
    for ref, commit, name in [
        ("main", second, "refs/heads/main"), ("refs/heads/main", second, "refs/heads/main"), ("HEAD", second, "refs/heads/main"),
        ("light", first, "refs/tags/light"), ("heavy", first, "refs/tags/heavy"), (first, first, first), (second, second, second),
    ]:  # fmt: skip
        fetched = objects.fetch(str(repository.path), ref)
        assert (fetched.commit, fetched.ref, fetched.commit_time) == (commit, name, 1_700_000_000)
    assert objects.fetch(str(repository.path), "main").tree == repository.tree()


def test_detached_head_is_a_commit_id(objects: ObjectStore, repository: Repository) -> None:
    commit = repository.git("rev-parse", "HEAD")
    repository.git("checkout", "--quiet", "--detach")
    assert objects.fetch(str(repository.path), "HEAD").ref == commit


def test_linked_work_tree_has_its_own_head(objects: ObjectStore, repository: Repository, tmp_path: Path) -> None:
    repository.git("worktree", "add", "--quiet", "-b", "other", str(tmp_path / "linked"))
    assert objects.fetch(str(tmp_path / "linked"), "HEAD").ref == "refs/heads/other"


def test_unreachable_commit_can_be_named(objects: ObjectStore, repository: Repository) -> None:
    lost = repository.commit({"new": "x"})
    repository.git("reset", "--quiet", "--hard", "HEAD~1")
    assert objects.fetch(str(repository.path), lost).commit == lost


@pytest.mark.parametrize("ref", ["nope", "refs/heads/nope", "0" * 39 + "1", "b" * 40])
def test_unknown_ref_is_an_input_error(objects: ObjectStore, repository: Repository, ref: str) -> None:
    with pytest.raises(InputError, match="REF_NOT_FOUND"):
        objects.fetch(str(repository.path), ref)


def test_tree_is_no_commit(objects: ObjectStore, repository: Repository) -> None:
    with pytest.raises(InputError, match="REF_NOT_FOUND"):
        objects.fetch(str(repository.path), repository.tree())


def test_branch_and_tag_of_one_name_are_ambiguous(objects: ObjectStore, repository: Repository) -> None:
    repository.git("tag", "main")
    with pytest.raises(InputError, match="REF_AMBIGUOUS"):
        objects.fetch(str(repository.path), "main")
    assert objects.fetch(str(repository.path), "refs/tags/main").ref == "refs/tags/main"


def test_empty_repository(objects: ObjectStore, tmp_path: Path) -> None:
    empty = Repository(tmp_path / "empty")
    with pytest.raises(InputError, match="REF_NOT_FOUND"):
        objects.fetch(str(empty.path), "HEAD")


def test_path_with_odd_characters(objects: ObjectStore, tmp_path: Path) -> None:
    odd = Repository(tmp_path / "a 'b' \"c\" $(touch x) `y` ; ü:z")
    commit = odd.commit({"f": "x"})
    assert objects.fetch(str(odd.path), "HEAD").commit == commit
    assert not list(tmp_path.rglob("x"))


def test_fetched_objects_stay_when_the_source_and_its_alternates_go(objects: ObjectStore, repository: Repository) -> None:
    shared = repository.path.parent / "shared"
    repository.git("clone", "--quiet", "--shared", str(repository.path), str(shared))
    fetched = objects.fetch(str(shared), "HEAD")
    for gone in (shared, repository.path):
        gone.rename(gone.with_name(f"{gone.name}-gone"))
    assert len(list(objects.read_many(entry.oid for entry in objects.entries(fetched.tree)))) == 4


def test_shallow_clone_can_be_a_source(objects: ObjectStore, repository: Repository) -> None:
    commit = repository.commit({"new": "x"})
    shallow = repository.path.parent / "shallow"
    repository.git("clone", "--quiet", "--depth=1", f"file://{repository.path}", str(shallow))
    assert objects.fetch(str(shallow), "HEAD").commit == commit
    assert names(objects, objects.fetch(str(repository.path), "HEAD").tree) >= {"new"}


def test_protocols_of_the_caller_hold_for_local_paths(objects: ObjectStore, repository: Repository) -> None:
    for call in (objects.fetch, objects.ls_remote):
        with pytest.raises(Refused, match="PROTOCOL_REFUSED"):
            call(str(repository.path), "HEAD", {"https", "ssh"})


def test_ls_remote_answers_exact_names_only(objects: ObjectStore, repository: Repository) -> None:
    head = repository.git("rev-parse", "HEAD")
    repository.git("update-ref", "refs/heads/x/refs/heads/wanted", head)
    assert objects.ls_remote(str(repository.path), "refs/heads/main") == head
    assert objects.ls_remote(str(repository.path), "refs/heads/wanted") is None
    assert objects.ls_remote(str(repository.path), "HEAD") == head


def test_malformed_history_is_refused(objects: ObjectStore, repository: Repository) -> None:
    body = f"tree {repository.tree()}\nauthor nobody 1 +0000\ncommitter nobody 1 +0000\n\nx\n".encode()
    commit = repository.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=body)
    repository.git("update-ref", "refs/heads/broken", commit)
    with pytest.raises(Refused, match="OBJECTS_MALFORMED"):
        objects.fetch(str(repository.path), "broken")


def test_old_harmless_mistake_is_accepted(objects: ObjectStore, repository: Repository) -> None:
    person = "A <a@example.org> 1300000000 +051800"
    body = f"tree {repository.tree()}\nauthor {person}\ncommitter {person}\n\nx\n".encode()
    commit = repository.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=body)
    repository.git("update-ref", "refs/heads/old", commit)
    assert objects.fetch(str(repository.path), "old").commit_time == 1_300_000_000


@pytest.mark.parametrize("name", [b"..", b".", b".git", b".GIT", b"git~1", ".g\u200cit".encode(), b".git ", b"a/b"])
def test_tree_with_a_name_that_escapes_is_refused(objects: ObjectStore, repository: Repository, name: bytes) -> None:
    blob = bytes.fromhex(repository.git("hash-object", "-w", "--stdin", stdin=b"x"))
    tree = repository.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=b"100644 " + name + b"\0" + blob)
    commit = repository.git("commit-tree", tree, "-m", "x")
    repository.git("update-ref", "refs/heads/evil", commit)
    with pytest.raises(Refused, match=r"TREE_UNSAFE|OBJECTS_MALFORMED"):
        objects.entries(objects.fetch(str(repository.path), "evil").tree)


def test_repository_of_another_hash_is_an_input_error(objects: ObjectStore, tmp_path: Path) -> None:
    other = Repository(tmp_path / "sha256" / "outer")
    other.git("init", "--quiet", "--object-format=sha256", str(tmp_path / "sha256" / "inner"))
    inner = Repository.__new__(Repository)
    inner.path = tmp_path / "sha256" / "inner"
    inner.commit({"f": "x"})
    with pytest.raises(InputError):
        objects.fetch(str(inner.path), "HEAD")


# --- code that the repository, or our own environment, would like to run ----------------------------------------------


def arm(repository: Repository, marker: Path) -> None:
    """Every hook and every setting that names a program, each leaving a marker."""
    script = repository.path.parent / "evil.sh"
    script.write_text(f'#!/bin/sh\nenv > "{marker}.$$"\nexit 0\n')
    script.chmod(0o755)
    hooks = repository.path / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for hook in (
        "pre-receive", "update", "post-receive", "post-update", "reference-transaction", "proc-receive", "push-to-checkout",
        "pre-push", "post-checkout", "post-merge", "pre-auto-gc", "post-index-change", "fsmonitor-watchman", "pre-commit",
    ):  # fmt: skip
        (hooks / hook).symlink_to(script)
    with (repository.path / ".git" / "config").open("a") as config:
        config.write(
            f"""
[core]
	fsmonitor = {script}
	hooksPath = {hooks}
	sshCommand = {script}
	pager = {script}
	editor = {script}
	askPass = {script}
	gitProxy = {script}
	alternateRefsCommand = {script}
[uploadpack]
	packObjectsHook = {script}
[receive]
	denyCurrentBranch = updateInstead
[filter "evil"]
	clean = {script}
	smudge = {script}
	process = {script}
	required = true
[diff]
	external = {script}
[diff "evil"]
	textconv = {script}
	command = {script}
[merge "evil"]
	driver = {script}
[credential]
	helper = !{script}
[gpg]
	program = {script}
[gpg "ssh"]
	program = {script}
[remote "origin"]
	url = ext::{script}
	promisor = true
	uploadpack = {script}
	receivepack = {script}
	vcs = evil
[extensions]
	partialClone = origin
[alias]
	upload-pack = !{script}
	receive-pack = !{script}
[url "ext::{script} "]
	insteadOf = /
[gc]
	auto = 1
"""
        )
    (repository.path / ".git" / "info").mkdir(exist_ok=True)
    (repository.path / ".git" / "info" / "attributes").write_text("* filter=evil diff=evil merge=evil export-ignore\n")


def arm_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, marker: Path) -> None:
    script = tmp_path / "evil.sh"
    elsewhere = Repository(tmp_path / "elsewhere")
    for name, value in {
        "GIT_DIR": str(elsewhere.path / ".git"), "GIT_WORK_TREE": str(elsewhere.path), "GIT_OBJECT_DIRECTORY": str(tmp_path),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(tmp_path), "GIT_EXTERNAL_DIFF": str(script), "GIT_SSH": str(script),
        "GIT_SSH_COMMAND": str(script), "GIT_PROXY_COMMAND": str(script), "GIT_ASKPASS": str(script), "GIT_EDITOR": str(script),
        "GIT_TRACE": f"{marker}.trace", "GIT_TRACE2": f"{marker}.trace2", "GIT_EXEC_PATH": str(tmp_path),
        "GIT_TEMPLATE_DIR": str(tmp_path),
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsmonitor", "GIT_CONFIG_VALUE_0": str(script),
        "GIT_CONFIG_GLOBAL": str(elsewhere.path / ".git" / "config"), "GIT_INDEX_FILE": str(tmp_path / "index"),
        "GIT_ALLOW_PROTOCOL": "ext:file", "GIT_NAMESPACE": "x", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path),
        "GEN4_CANARY": "the environment of the fabric",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    (tmp_path / ".gitconfig").write_text(f"[core]\n\tfsmonitor = {script}\n\thooksPath = {tmp_path}\n")


def test_nothing_of_the_source_runs(
    objects: ObjectStore, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signing_key: Path
) -> None:
    repository.commit({".gitattributes": "* filter=evil diff=evil ident text eol=crlf\n", "f.py": "a = 1\n"})
    marker = tmp_path / "ran"
    arm(repository, marker)
    arm_environment(monkeypatch, tmp_path, marker)
    fetched = objects.fetch(str(repository.path), "HEAD")
    with io.BytesIO() as out:
        objects.tar(fetched.tree, out)
    result = objects.write_tree(fetched.tree, {"f.py": b"a = 2\n"})
    assert objects.apply(fetched.tree, objects.diff(fetched.tree, result)) == result
    commit = objects.commit_tree(result, [fetched.commit], "x", "A <a@example.org>", "A <a@example.org>", 1, signing_key)
    objects.push(str(repository.path), commit, "refs/heads/gen4/x", "0" * 40)
    assert objects.ls_remote(str(repository.path), "refs/heads/gen4/x") == commit
    assert list(tmp_path.glob("ran*")) == []


def test_missing_objects_of_a_partial_clone_are_not_fetched_by_its_programs(
    objects: ObjectStore, repository: Repository, tmp_path: Path
) -> None:
    commit = repository.commit({"f.py": "a = 1\n"})
    blob = repository.git("rev-parse", "HEAD:f.py")
    arm(repository, tmp_path / "ran")
    (repository.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(Gen4Error) as caught:
        objects.fetch(str(repository.path), commit)
    assert caught.value.code in {"REPOSITORY_NOT_FOUND", "REPOSITORY_UNREADABLE"}
    assert list(tmp_path.glob("ran*")) == []


def test_attributes_neither_drop_nor_rewrite_files(objects: ObjectStore, repository: Repository) -> None:
    attributes = "tests/** export-ignore\n*.py text eol=crlf ident working-tree-encoding=UTF-16\n*.sh export-subst\n"
    content = b"def test(): pass  # $Id$ $Format:%H$\n"
    repository.git("config", "core.attributesFile", "/dev/null")
    repository.write({"tests/test_x.py": content, "y.sh": content})
    repository.git("add", "--all")
    repository.commit()
    repository.write({".gitattributes": attributes})
    blob = repository.git("hash-object", "-w", "--no-filters", ".gitattributes")
    repository.git("update-index", "--add", "--cacheinfo", f"100644,{blob},.gitattributes")
    repository.git("commit", "--quiet", "--message", "attributes")
    fetched = objects.fetch(str(repository.path), "HEAD")
    with io.BytesIO() as out:
        assert objects.tar(fetched.tree, out) == ()
        out.seek(0)
        with tarfile.open(fileobj=out) as archive:
            for name in ("tests/test_x.py", "y.sh"):
                member = archive.extractfile(name)
                assert member is not None and member.read() == content


def test_submodules_are_not_followed(objects: ObjectStore, repository: Repository, tmp_path: Path) -> None:
    modules = f'[submodule "s"]\n\tpath = sub\n\turl = ext::touch {tmp_path}/ran\n\tupdate = !touch {tmp_path}/ran\n'
    repository.write({".gitmodules": modules})
    repository.git("add", ".gitmodules")
    repository.git("update-index", "--add", "--cacheinfo", "160000," + "1" * 40 + ",sub")
    repository.git("commit", "--quiet", "--message", "submodule")
    try:
        fetched = objects.fetch(str(repository.path), "HEAD")
    except Refused as error:
        assert error.code == "OBJECTS_MALFORMED"  # git itself calls such a .gitmodules malicious
    else:
        assert "sub" in names(objects, fetched.tree)
    assert list(tmp_path.glob("ran*")) == []


def test_gitlinks_are_left_out_of_the_archive(objects: ObjectStore, repository: Repository) -> None:
    repository.git("update-index", "--add", "--cacheinfo", "160000," + "1" * 40 + ",sub")
    repository.git("commit", "--quiet", "--message", "submodule")
    fetched = objects.fetch(str(repository.path), "HEAD")
    (gitlink,) = [entry for entry in objects.entries(fetched.tree) if entry.type == "commit"]
    assert (gitlink.mode, gitlink.oid, gitlink.size, gitlink.path) == ("160000", "1" * 40, 0, "sub")
    with io.BytesIO() as out:
        assert objects.tar(fetched.tree, out) == ("sub",)


def test_replace_refs_and_grafts_of_the_source_do_not_count(objects: ObjectStore, repository: Repository) -> None:
    real = repository.git("rev-parse", "HEAD")
    fake = repository.commit({"fake": "x"})
    repository.git("replace", real, fake)
    fetched = objects.fetch(str(repository.path), real)
    assert fetched.commit == real and "fake" not in names(objects, fetched.tree)


def test_ssh_takes_its_options_from_us(objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bin"
    fake.mkdir()
    log = f'printf "%s\\n" "$@" >> "{tmp_path}/arguments"\nenv >> "{tmp_path}/environment"\n'
    (fake / "ssh").write_text(f"#!/bin/sh\n{log}exit 255\n")
    (fake / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    monkeypatch.setenv("GIT_SSH_COMMAND", f"touch {tmp_path}/ran")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    with pytest.raises(InfrastructureError, match="FETCH_FAILED"):
        objects.fetch("ssh://git@example.invalid/a.git", "main", {"ssh"})
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[:2] == ["-F", "/dev/null"] and "BatchMode=yes" in arguments and "git@example.invalid" in arguments
    assert "SSH_AUTH_SOCK" not in (tmp_path / "environment").read_text()
    assert not (tmp_path / "ran").exists()


def test_unreachable_server_is_an_infrastructure_error(objects: ObjectStore) -> None:
    with pytest.raises(InfrastructureError, match="FETCH_FAILED"):
        objects.fetch("https://127.0.0.1:1/a.git", "main", {"https"})


def test_two_stores_may_be_made_at_once(tmp_path: Path, repository: Repository) -> None:
    stores = [ObjectStore.open(tmp_path / "shared.git") for _ in range(3)]
    assert len({store.fetch(str(repository.path), "HEAD").tree for store in stores}) == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("objects-")]


def test_folder_that_is_no_store_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "objects.git").mkdir()
    (tmp_path / "objects.git" / "letter.txt").write_text("mine")
    with pytest.raises(InfrastructureError, match="OBJECTS_UNUSABLE"):
        ObjectStore.open(tmp_path / "objects.git")


def test_git_that_could_not_be_held_back_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\necho git version 2.39.3\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfrastructureError, match="TOOL_TOO_OLD"):
        ObjectStore.open(tmp_path / "objects.git")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(InfrastructureError, match="TOOL_MISSING"):
        ObjectStore.open(tmp_path / "objects.git")
