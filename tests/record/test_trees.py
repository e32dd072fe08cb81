"""Trees: read, archived, edited, compared; checked against git itself as an independent witness."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import tarfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from activities.record.objects import ObjectStore
from activities.record.trees import TreeEntry, check_path, git_object_id, stays_inside
from schemas.error import InfrastructureError, InputError, Refused

from .conftest import Repository

EMPTY = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
counter = itertools.count()


def archive(objects: ObjectStore, tree: str) -> tuple[bytes, tuple[str, ...]]:
    with io.BytesIO() as out:
        omitted = objects.tar(tree, out)
        return out.getvalue(), omitted


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as opened:
        return {member.name: member for member in opened.getmembers()}


def unpack(data: bytes, folder: Path) -> None:
    """As plainly as can be: nothing here keeps a link inside."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as opened:
        for member in opened:
            target = folder / member.name
            if member.isdir():
                target.mkdir()
            elif member.issym():
                target.symlink_to(member.linkname)
            else:
                content = opened.extractfile(member)
                assert content is not None
                target.write_bytes(content.read())
                target.chmod(member.mode)


parts = st.binary(min_size=1, max_size=12).filter(lambda name: not {0, 0x2F} & set(name)).map(os.fsdecode)
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)


def is_possible(names: set[str]) -> bool:
    """No file lies where another path needs a folder, and git itself would take every name."""
    folders = {"/".join(name.split("/")[:end]) for name in names for end in range(1, name.count("/") + 1)}
    try:
        return not folders & names and all(check_path(name) for name in names)
    except Refused:
        return False


trees = st.dictionaries(paths, st.binary(max_size=200), min_size=1, max_size=6).filter(lambda files: is_possible(set(files)))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(files=trees)
def test_what_is_written_is_what_git_would_have_written(objects: ObjectStore, tmp_path: Path, files: dict[str, bytes]) -> None:
    """Any bytes in names and contents: our tree, our tar, unpacked and added by plain git, give one tree id."""
    tree = objects.write_tree(EMPTY, files)
    assert {entry.path: objects.read(entry.oid) for entry in objects.entries(tree)} == files
    witness = Repository(tmp_path / f"witness-{next(counter)}")
    unpack(archive(objects, tree)[0], witness.path)
    witness.git("-c", "core.protectNTFS=false", "add", "--all", "--force")
    assert witness.git("write-tree") == tree


def test_modes_links_and_order(objects: ObjectStore, repository: Repository) -> None:
    fetched = objects.fetch(str(repository.path), "HEAD")
    entries = objects.entries(fetched.tree)
    assert [(entry.path, entry.mode) for entry in entries] == [
        ("link", "120000"), ("run.sh", "100755"), ("src/pkg/__init__.py", "100644"), ("tests/test_pkg.py", "100644"),
    ]  # fmt: skip
    assert entries[2] == TreeEntry("100644", "blob", git_object_id("blob", b"x = 1\n"), 6, "src/pkg/__init__.py")
    found = members(archive(objects, fetched.tree)[0])
    assert found["link"].issym() and found["link"].linkname == "src/pkg"
    assert (found["run.sh"].mode, found["tests/test_pkg.py"].mode, found["src"].mode) == (0o755, 0o644, 0o755)
    assert {(member.uid, member.gid, member.uname, member.mtime) for member in found.values()} == {(0, 0, "", 315_619_200)}


def test_archive_is_deterministic(objects: ObjectStore, repository: Repository) -> None:
    tree = objects.fetch(str(repository.path), "HEAD").tree
    assert archive(objects, tree) == archive(objects, tree)


def test_long_paths(objects: ObjectStore) -> None:
    path = "/".join(["folder" * 20] * 4) + "/ü.py"
    assert path in members(archive(objects, objects.write_tree(EMPTY, {path: b"x"}))[0])


def test_large_repository(objects: ObjectStore) -> None:
    files = {f"package{n % 40}/module{n}.py": b"x = %d\n" % n for n in range(2_000)}
    listing = b"".join(b"blob\nmark :%d\ndata %d\n%s\n" % (n, len(data), data) for n, data in enumerate(files.values(), 1))
    changes = b"".join(b"M 100644 :%d %s\n" % (n, path.encode()) for n, path in enumerate(files, 1))
    commit = b"commit refs/heads/x\ncommitter a <a@example.org> 1 +0000\ndata 1\nx\n" + changes
    objects._git.run("fast-import", "--quiet", stdin=listing + commit)
    tree = objects._git.run("rev-parse", "refs/heads/x^{tree}").decode().strip()
    found = members(archive(objects, tree)[0])
    assert {name for name, member in found.items() if member.isfile()} == set(files)
    assert len(objects.snapshot_hash(tree)) == 64


# --- links -----------------------------------------------------------------------------------------------------------

LINKS = {
    "good": "src/pkg", "src/up": "../tests", "dangling": "nowhere", "chain": "good/__init__.py", "empty": ".", "self": "self",
    "a": "b", "b": "a", "root": "/etc/passwd", "out": "../outside", "deep/er/up": "../../..", "deep/root": "er/..",
    "sneaky": "deep/deeper/x/../../../..", "hop": "deep/er/two/../up2", "twice": "up3/../../etc", "up3": "src/pkg",
}  # fmt: skip


def test_links_that_lead_outside_are_left_out(objects: ObjectStore, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "links")
    repository.write({"src/pkg/__init__.py": "x", "tests/t.py": "x", "deep/er/two/f": "x"})
    for name, target in LINKS.items():
        (repository.path / name).parent.mkdir(parents=True, exist_ok=True)
        (repository.path / name).symlink_to(target)
    repository.commit()
    data, omitted = archive(objects, objects.fetch(str(repository.path), "HEAD").tree)
    assert set(omitted) == {"self", "a", "b", "root", "out", "deep/er/up", "sneaky"}
    unpacked = tmp_path / "unpacked"
    unpack(data, unpacked)
    for name in set(LINKS) - set(omitted):
        assert (unpacked / name).resolve().is_relative_to(unpacked)


def test_link_through_another_link_is_followed_for_real() -> None:
    # As text it stays inside; on disk `deep/up` is the root, and one step above it is outside.
    links: dict[str, str | None] = {"deep/down/up": "../..", "sneaky": "deep/down/up/../etc"}
    assert stays_inside("deep/down/up", links)
    assert not stays_inside("sneaky", links)


@pytest.mark.parametrize("target", [None, "/", "..", "a/../..", "../" * 40])
def test_hostile_targets(target: str | None) -> None:
    assert not stays_inside("link", {"link": target})


names = st.sampled_from(["a", "b", "c", "..", "."])


@settings(max_examples=60, deadline=None)
@given(
    links=st.dictionaries(
        st.sampled_from(["a", "b", "d/c", "d/e/f"]), st.lists(names, min_size=1, max_size=5).map("/".join), min_size=1, max_size=4
    )
)
def test_no_kept_link_escapes_on_a_real_file_system(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, str | None]
) -> None:
    root = tmp_path_factory.mktemp("links").resolve()
    (root / "d" / "e").mkdir(parents=True)
    for name, target in links.items():
        (root / name).symlink_to(str(target))
    for name in links:
        if stays_inside(name, links):
            assert (root / name).resolve().is_relative_to(root)


# --- damage ----------------------------------------------------------------------------------------------------------


def loose(objects: ObjectStore, oid: str) -> Path:
    return objects._git.directory / "objects" / oid[:2] / oid[2:]


def test_replaced_bytes_are_noticed(objects: ObjectStore) -> None:
    tree = objects.write_tree(EMPTY, {"f": b"good\n"})
    (entry,) = objects.entries(tree)
    for path, data in ((loose(objects, entry.oid), b"blob 5\0evil\n"), (loose(objects, tree), b"tree 0\0")):
        path.chmod(0o600)
        path.write_bytes(zlib.compress(data))
        with pytest.raises(InfrastructureError, match="OBJECT_CORRUPT"):
            archive(objects, tree)


def test_missing_objects_are_noticed(objects: ObjectStore) -> None:
    tree = objects.write_tree(EMPTY, {"f": b"good\n"})
    loose(objects, objects.entries(tree)[0].oid).unlink()
    for call in (lambda: archive(objects, tree), lambda: objects.read("1" * 40), lambda: objects.entries("1" * 40)):
        with pytest.raises(InfrastructureError, match="OBJECT_MISSING"):
            call()


def test_blob_is_no_tree_and_words_are_no_ids(objects: ObjectStore) -> None:
    tree = objects.write_tree(EMPTY, {"f": b"x"})
    for wrong in (objects.entries(tree)[0].oid, "HEAD", "--all", "", tree[:39], tree.upper() + "\n"):
        with pytest.raises(InputError, match="OBJECT_ID"):
            objects.entries(wrong)


# --- edits and diffs -------------------------------------------------------------------------------------------------


def test_edits_keep_modes_and_deletions_remove_folders(objects: ObjectStore, repository: Repository) -> None:
    base = objects.fetch(str(repository.path), "HEAD").tree
    tree = objects.write_tree(base, {"run.sh": b"new", "tests/test_pkg.py": None, "new/file": b"x", "gone": None})
    assert {entry.path: entry.mode for entry in objects.entries(tree)} == {
        "link": "120000", "run.sh": "100755", "src/pkg/__init__.py": "100644", "new/file": "100644",
    }  # fmt: skip
    assert objects.file(tree, "run.sh") == b"new" and objects.file(tree, "tests/test_pkg.py") is None
    assert objects.file(tree, "link") is None and objects.file(tree, "src") is None
    assert objects.files(tree, ("new/file", "gone", "link", "run.sh", "src")) == {"new/file": b"x", "run.sh": b"new"}
    assert objects.files(tree, ()) == {}
    assert objects.changed_paths(base, tree) == ("new/file", "run.sh", "tests/test_pkg.py")
    assert [change.status for change in objects.changes(base, tree)] == ["A", "M", "D"]
    assert objects.write_tree(base, {}) == base


@pytest.mark.parametrize("path", ["link", "link/x", "src/pkg/__init__.py/x", "src/pkg", "tests"])
def test_edits_never_pass_through_links_or_replace_folders(objects: ObjectStore, repository: Repository, path: str) -> None:
    base = objects.fetch(str(repository.path), "HEAD").tree
    with pytest.raises(Refused, match="EDIT_REFUSED"):
        objects.write_tree(base, {path: b"x"})


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/etc/passwd", "a//b", "a/", "./a", "../a", "a/../b", ".git/config", ".GIT/x", "a/.Git", "git~1/x",
        ".g\u200cit/config", "\uff0egit/x", ".git./x", ".git /x", "a\0b",
    ],
)  # fmt: skip
def test_unsafe_paths_are_refused(objects: ObjectStore, path: str) -> None:
    with pytest.raises(Refused, match="TREE_UNSAFE"):
        objects.write_tree(EMPTY, {path: b"x"})
    with pytest.raises(Refused, match="TREE_UNSAFE"):
        objects.file(EMPTY, path)


@pytest.mark.parametrize("path", [".gitignore", ".github/x", "git", "a.git/b", "...", "a b", "-x", ":(top)a", "a\\b", "*"])
def test_ordinary_if_odd_paths_work(objects: ObjectStore, path: str) -> None:
    tree = objects.write_tree(EMPTY, {path: b"x", "other": b"y"})
    assert objects.file(tree, path) == b"x"
    assert objects.apply(EMPTY, objects.diff(EMPTY, tree)) == tree


kinds = st.sampled_from(["100644", "100755", "120000", "160000"])
listings = st.dictionaries(
    st.sampled_from(["a", "a-b", "a/x", "a/y/z", "a.b", "b", "b/c", "b/c/d", "e/f", "ü"]),
    st.tuples(kinds, st.sampled_from([b"1\n", b"2\n"])), max_size=6,
).filter(lambda entries: not {path for path in entries if any(other.startswith(path + "/") for other in entries)})  # fmt: skip


def by_git(objects: ObjectStore, entries: dict[str, tuple[str, bytes]]) -> str:
    """The tree as git's own index writes it."""
    blobs = {data: objects._git.run("hash-object", "-w", "--stdin", stdin=data).decode().strip() for _, data in entries.values()}
    lines = "".join(f"{mode} {blobs[data]}\t{path}\n" for path, (mode, data) in entries.items())
    folder = objects._git.directory / "index-of-a-test"
    environment = {"GIT_INDEX_FILE": str(folder)}
    folder.unlink(missing_ok=True)
    objects._git.run("update-index", "--index-info", stdin=lines.encode(), environment=environment)
    return objects._git.run("write-tree", environment=environment).decode().strip()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(before=listings, after=listings)
@example(before={"a": ("100644", b"1\n")}, after={"a/x": ("120000", b"1\n")})
@example(before={"b/c/d": ("100644", b"1\n"), "a": ("100644", b"1\n")}, after={"a": ("120000", b"1\n")})
def test_differences_are_those_that_git_sees_and_can_be_taken_back(
    objects: ObjectStore, before: dict[str, tuple[str, bytes]], after: dict[str, tuple[str, bytes]]
) -> None:
    base, result = by_git(objects, before), by_git(objects, after)
    seen = objects._git.run("diff-tree", "-r", "-z", "--no-renames", "--full-index", base, result).decode().split("\0")[:-1]
    found = objects.changes(base, result)
    ours = [f":{one.old_mode} {one.new_mode} {one.old_oid} {one.new_oid} {one.status}" for one in found]
    assert sorted(zip(ours, objects.changed_paths(base, result), strict=True)) == sorted(zip(seen[::2], seen[1::2], strict=True))
    assert objects.undo(result, found) == base
    assert objects.paths(result) == sorted(after, key=os.fsencode)


def test_what_is_written_is_kept_whole_by_git_itself(objects: ObjectStore) -> None:
    for size in (0, 15, 16, 2047, 2048, 300_000):
        tree = objects.write_tree(EMPTY, {f"{size}/x": b"x" * size, "y": b"y"})
        assert objects.file(tree, f"{size}/x") == b"x" * size
    objects._git.run("fsck", "--strict", "--full")


lines = st.lists(st.sampled_from(["a", "b", "c", "", "ü", "+x", "--- a/f", "\r"]), max_size=12).map("\n".join)
texts = lines | lines.map(lambda text: text + "\n") | st.binary(max_size=20)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=texts, after=texts)
def test_a_diff_applied_gives_the_result(objects: ObjectStore, before: str | bytes, after: str | bytes) -> None:
    old, new = (value if isinstance(value, bytes) else value.encode() for value in (before, after))
    base = objects.write_tree(EMPTY, {"f": old, "same": b"1\n"})
    result = objects.write_tree(base, {"f": new, "a/new": b"2\n"})
    diff = objects.diff(base, result)
    assert objects.apply(base, diff) == result
    assert diff == objects.diff(base, result)
    if old != new:
        assert diff.index(b"a/new") < diff.index(b"diff --git a/f")


def test_diff_names_full_ids_and_shows_a_rename_as_two_files(objects: ObjectStore) -> None:
    base = objects.write_tree(EMPTY, {"old": b"1\n2\n3\n"})
    diff = objects.diff(base, objects.write_tree(base, {"old": None, "new": b"1\n2\n3\n"}))
    assert b"rename" not in diff and diff.count(b"diff --git") == 2
    assert git_object_id("blob", b"1\n2\n3\n").encode() in diff
    assert objects.diff(base, base) == b""


@pytest.mark.parametrize(
    "diff",
    [
        b"", b"nonsense", b"\x00\xff", b"--- a/f\n+++ b/f\n@@ -1 +1 @@\n-wrong\n+x\n",
        b"--- a/missing\n+++ b/missing\n@@ -1 +1 @@\n-1\n+x\n",
        b"--- /dev/null\n+++ b/../outside\n@@ -0,0 +1 @@\n+x\n",
        b"--- /dev/null\n+++ b/.git/hooks/pre-commit\n@@ -0,0 +1 @@\n+x\n",
        b"--- /dev/null\n+++ b//etc/passwd\n@@ -0,0 +1 @@\n+x\n", b"--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+x\n",
        b"--- /dev/null\n+++ b/f/under\n@@ -0,0 +1 @@\n+x\n", b"--- a/f\n+++ b/f\n@@ -1 +1 @@\n-1\n",
    ],
)  # fmt: skip
def test_patches_that_do_not_fit_are_refused(objects: ObjectStore, diff: bytes) -> None:
    base = objects.write_tree(EMPTY, {"f": b"1\n"})
    with pytest.raises(Refused, match=r"PATCH_DOES_NOT_APPLY|TREE_UNSAFE"):
        objects.apply(base, diff)


def test_snapshot_hash_is_the_documented_one(objects: ObjectStore, repository: Repository) -> None:
    tree = objects.fetch(str(repository.path), "HEAD").tree
    content = {
        "link": b"src/pkg", "run.sh": b"#!/bin/sh\n", "src/pkg/__init__.py": b"x = 1\n",
        "tests/test_pkg.py": b"def test(): pass\n",
    }  # fmt: skip
    modes = {"link": "120000", "run.sh": "100755"}
    listed = sorted(f"{modes.get(path, '100644')} {hashlib.sha256(data).hexdigest()} {path}\n" for path, data in content.items())
    expected = hashlib.sha256("".join(listed).encode()).hexdigest()
    assert objects.snapshot_hash(tree) == objects.snapshot_hash(tree) == expected


# --- commits ---------------------------------------------------------------------------------------------------------


def test_commit_is_signed_and_deterministic(objects: ObjectStore, repository: Repository, signing_key: Path) -> None:
    base = objects.fetch(str(repository.path), "HEAD")
    tree = objects.write_tree(base.tree, {"f": b"x"})

    def seal() -> str:
        message, author, committer = "Fix it\n\nGen4-Task: t\n", "A B <a@b.org>", "Ü <c@d.org>"
        return objects.commit_tree(tree, [base.commit], message, author, committer, 1_700_000_001, signing_key)

    commit = seal()
    assert seal() == commit
    info = objects.commit(commit)
    assert (info.tree, info.parents, info.commit_time, info.signed) == (tree, (base.commit,), 1_700_000_001, True)
    assert (info.author, info.committer, info.message) == ("A B <a@b.org>", "Ü <c@d.org>", "Fix it\n\nGen4-Task: t\n")
    objects.push(str(repository.path), commit, "refs/heads/sealed", "0" * 40)
    signers = signing_key.with_name("allowed")
    signers.write_text(f"* {signing_key.with_suffix('.pub').read_text()}")
    repository.git("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", "sealed")
    objects._git.run("-c", "gc.pruneExpire=now", "gc", "--quiet", "--prune=now")
    assert objects.commit(commit) == info


@pytest.mark.parametrize(
    "person", ["", "A", "<a@b>", "A <a@b> x", "A\n<a@b>", "A <a@b>\nparent x", "A <a b>", "A\0 <a@b>", "A <<a@b>"]
)
def test_persons_that_could_forge_headers_are_refused(objects: ObjectStore, signing_key: Path, person: str) -> None:
    with pytest.raises(InputError, match="PERSON_INVALID"):
        objects.commit_tree(EMPTY, [], "x", person, "A <a@b>", 1, signing_key)


def test_key_that_cannot_sign_is_an_infrastructure_error(objects: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    with pytest.raises(InfrastructureError, match="GIT_FAILED"):
        objects.commit_tree(EMPTY, [], "x", "A <a@b>", "A <a@b>", 1, tmp_path / "key")
