"""Which change a compile in CI means: shallow clones, merge commits, detached heads, subfolders, patch files."""

from __future__ import annotations

from pathlib import Path

import pytest

from activities.record.blobs import BlobStore
from activities.record.home import Home
from cli import changes
from cli.changes import as_request, between, read_patch, toplevel
from schemas.error import InputError
from schemas.model import BlobRef
from tests.e2e.harness import git


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """main: one, two. fix: one, mended. merge: a merge of fix into main, as a forge makes it."""
    path = tmp_path / "origin"
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    for switch, name, text in ((), "a.txt", "one\n"), (("-b", "fix"), "a.txt", "mended\n"), (("main",), "b.txt", "two\n"):
        git(path, "checkout", "-q", *switch) if switch else None
        (path / name).write_text(text)
        git(path, "add", "-A")
        git(path, "commit", "-q", "-m", text.strip())
    git(path, "checkout", "-q", "--detach", "main")
    git(path, "merge", "-q", "--no-ff", "-m", "merge", "fix")
    git(path, "branch", "merge")
    git(path, "checkout", "-q", "main")
    return path


def clone(origin: Path, name: str, *options: str) -> Path:
    git(origin.parent, "clone", "-q", *options, f"file://{origin}", name)
    return origin.parent / name


def ids(path: Path, *revisions: str) -> list[str]:
    return [git(path, "rev-parse", revision) for revision in revisions]


def test_the_change_of_a_branch_is_against_its_merge_base(home: Home, origin: Path) -> None:
    """What main got since is not taken back."""
    change = between(home, origin, "main", "fix")
    assert change.ref == ids(origin, "main~1")[0]
    assert change.diff.decode().count("diff --git") == 1 and b"+mended" in change.diff


def test_the_base_of_a_merge_commit_is_what_was_merged_into(home: Home, origin: Path) -> None:
    change = between(home, origin, "", "merge")
    assert change.ref == ids(origin, "main")[0]
    assert b"+mended" in change.diff and b"two" not in change.diff


def test_the_base_of_a_plain_commit_is_the_one_before(home: Home, origin: Path) -> None:
    assert between(home, origin, "", "fix").ref == ids(origin, "fix^")[0]
    assert between(home, origin, "", "fix").diff == between(home, origin, "fix^", "fix").diff
    assert between(home, origin, "merge^2~1", "merge^2").diff == between(home, origin, "", "fix").diff


def test_a_detached_head_and_a_subfolder(home: Home, origin: Path) -> None:
    git(origin, "checkout", "-q", "--detach", "fix")
    (origin / "sub" / "deep").mkdir(parents=True)
    assert toplevel(str(origin / "sub" / "deep")) == origin
    assert b"+mended" in between(home, toplevel(str(origin / "sub")), "", "HEAD").diff


def test_remote_branches_are_found_by_their_short_names(home: Home, origin: Path) -> None:
    path = clone(origin, "work", "--branch", "fix")
    expected = between(home, origin, "main", "fix")
    assert between(home, path, "origin/main", "HEAD") == between(home, path, "main", "HEAD") == expected


def test_a_shallow_clone_of_a_merge_commit(home: Home, origin: Path) -> None:
    """What a forge's checkout of a pull request is, with two commits of depth."""
    path = clone(origin, "shallow", "--depth=2", "--branch", "merge")
    assert between(home, path, "", "HEAD") == between(home, origin, "", "merge")
    assert between(home, path, ids(origin, "main")[0], "HEAD") == between(home, origin, "", "merge")


def test_a_base_that_a_shallow_clone_lacks_is_named_with_the_command_that_helps(home: Home, origin: Path) -> None:
    path = clone(origin, "shallow", "--depth=1", "--branch", "merge")
    (base,) = ids(origin, "main")
    with pytest.raises(InputError) as caught:
        between(home, path, "", "HEAD")
    assert (caught.value.code, base in caught.value.message) == ("BASE_MISSING", True)
    assert caught.value.remedy == f"git fetch --no-tags --depth=1 origin {base}"
    git(path, *caught.value.remedy.split()[1:])
    assert between(home, path, "", "HEAD") == between(home, origin, "", "merge")


def test_a_branch_that_a_shallow_clone_lacks_is_named_with_the_command_that_helps(home: Home, origin: Path) -> None:
    path = clone(origin, "shallow", "--depth=1", "--branch", "merge")
    with pytest.raises(InputError) as caught:
        between(home, path, "main", "HEAD")
    assert caught.value.code == "REF_NOT_FOUND"
    command = caught.value.remedy.partition(",")[0]
    git(path, *command.split()[1:])
    assert between(home, path, "main", "HEAD") == between(home, origin, "", "merge")


def test_histories_cut_before_they_meet_are_refused_with_the_command_that_helps(home: Home, origin: Path) -> None:
    path = clone(origin, "shallow", "--depth=1", "--branch", "fix")
    git(path, "fetch", "-q", "--depth=1", "origin", "+refs/heads/main:refs/remotes/origin/main")
    with pytest.raises(InputError) as caught:
        between(home, path, "main", "HEAD")
    assert caught.value.code == "BASE_UNRELATED"
    git(path, *caught.value.remedy.split()[1:])
    assert between(home, path, "main", "HEAD") == between(home, origin, "main", "fix")


def test_a_shallow_clone_leaves_the_store_of_the_home_whole(home: Home, origin: Path) -> None:
    between(home, clone(origin, "shallow", "--depth=2", "--branch", "merge"), "", "HEAD")
    assert not (home.objects / "shallow").exists()
    assert between(home, origin, "main", "fix").ref == ids(origin, "main~1")[0]


@pytest.mark.parametrize(
    "base, head, code",
    [
        ("", "absent", "REF_NOT_FOUND"), ("absent", "fix", "REF_NOT_FOUND"), ("main", "main", "PATCH_EMPTY"),
        ("", "main~1", "REF_NOT_FOUND"), ("", "fix^2", "REF_NOT_FOUND"), ("", "-x", "REF_INVALID"), ("", "a..b", "REF_INVALID"),
        ("0" * 40, "fix", "BASE_MISSING"), ("", "--upload-pack=x", "REF_INVALID"),
    ],
)  # fmt: skip
def test_what_names_no_change_is_a_usage_error(home: Home, origin: Path, base: str, head: str, code: str) -> None:
    with pytest.raises(InputError) as caught:
        between(home, origin, base, head)
    assert caught.value.code == code and caught.value.remedy


def test_nothing_of_the_clone_is_run(home: Home, origin: Path) -> None:
    """Its configuration and attributes name programs; git of ours reads none of them."""
    for name, value in (("core.fsmonitor", "touch fired"), ("diff.external", "touch fired"), ("core.pager", "touch fired")):
        git(origin, "config", name, value)
    (origin / ".git" / "info").mkdir(exist_ok=True)
    (origin / ".git" / "info" / "attributes").write_text("* diff=evil\n")
    git(origin, "config", "diff.evil.textconv", "touch fired")
    between(home, origin, "main", "fix")
    assert not list(origin.rglob("fired")) and not Path("fired").exists()


# --- patch files -------------------------------------------------------------------------------------------------------


def test_a_patch_that_json_cannot_hold_goes_to_the_content_store(home: Home) -> None:
    assert as_request(home, "local", "diff --git ä".encode()) == {"patch": "diff --git ä"}
    for diff in (b"diff --git \xe4", b"x" * (changes.INLINE_LIMIT + 1)):
        reference = as_request(home, "local", diff)["patch_ref"]
        assert isinstance(reference, BlobRef) and BlobStore(home.blobs, "local").get(reference) == diff


@pytest.mark.parametrize("data, code", [(b" \n", "PATCH_EMPTY"), (b"x" * (changes.PATCH_LIMIT + 1), "PATCH_TOO_LARGE")])
def test_patch_files_have_bounds(tmp_path: Path, data: bytes, code: str) -> None:
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(InputError, match=code):
        read_patch(tmp_path / "p")
    with pytest.raises(InputError, match="PATCH_NOT_FOUND"):
        read_patch(tmp_path)
