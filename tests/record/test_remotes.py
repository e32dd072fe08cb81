from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.record.remotes import check_ref, find_local, parse_remote
from schemas.error import Gen4Error, InputError, Refused

ALL = frozenset({"file", "https", "ssh"})


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("https://example.org/a/b.git", "https"),
        ("https://example.org:8443/~user/b", "https"),
        ("ssh://git@example.org/a/b.git", "ssh"),
        ("ssh://example.org:2222/srv/b.git", "ssh"),
    ],
)
def test_plain_urls_are_accepted_where_allowed(url: str, protocol: str) -> None:
    remote = parse_remote(url, {protocol})
    assert (remote.protocol, remote.address, remote.local) == (protocol, url, None)
    with pytest.raises(Refused, match="PROTOCOL_REFUSED"):
        parse_remote(url, ALL - {protocol})


@pytest.mark.parametrize(
    "repository",
    [
        "", "-", "--upload-pack=touch x", "-u", "ext::sh -c touch% x", "ext::https://example.org/a", "file:///etc", "file://host/etc",
        "fd::17", "http://example.org/a", "git://example.org/a", "ftp://example.org/a", "git@example.org:a/b.git",
        "example.org:a",
        "relative", "./relative", "../up", "~/home", "https://user:secret@example.org/a", "https://user@example.org/a", "https://example.org",
        "https://-oProxyCommand=x/a", "ssh://-oProxyCommand=x/a", "ssh://-x@example.org/a", "ssh://example.org/-a",
        "ssh://example.org/a/-b",
        "https://example.org/a/../b", "https://example.org/./a", "https://example.org/a?x=1", "https://example.org/a#b",
        "https://example.org/a b", "https://example.org/a\n", "https://exam\nple.org/a", "HTTPS://example.org/a", "https://[::1]/a",
        "https://example.org/a;touch x", "ssh://example.org/$(touch x)", "ssh://example.org/`x`", "https://example.org\\@evil/a",
        "https://exämple.org/a", "ssh://example.org:/a", "ssh://example.org:99999999/a", " /tmp", "\x00",
    ],
)  # fmt: skip
def test_everything_else_is_refused(repository: str) -> None:
    with pytest.raises(InputError, match="REPOSITORY_INVALID"):
        parse_remote(repository, ALL)


@given(st.text(max_size=60))
def test_any_text_is_answered_and_never_an_option(text: str) -> None:
    try:
        remote = parse_remote(text, {"https", "ssh"})
    except Gen4Error:
        return
    assert remote.address == text and text.startswith(("https://", "ssh://")) and "::" not in text.split("/")[2]


@pytest.mark.parametrize("ref", ["main", "refs/heads/main", "HEAD", "v1.0", "feature/ü", "a@b", "release-1.x", "x#1"])
def test_names_of_refs_are_accepted(ref: str) -> None:
    assert check_ref(ref) == ref


@pytest.mark.parametrize(
    "ref",
    [
        "", "-d", "--all", "/a", "a/", "a//b", "a..b", "a.", ".a", "a/.b", "a.lock", "a.lock/b", "@", "a@{1}", "a b", "a~1", "a^",
        "a:b", "a?", "a*", "a[b", "a\\b", "a\nb", "a\x00", "a\x7f", "\u202emain", "a" * 300, "+main",
    ],
)  # fmt: skip
def test_other_names_are_refused(ref: str) -> None:
    if ref == "+main":
        assert check_ref(ref) == ref  # a legal name, and we never let git parse it as a refspec with force
    else:
        with pytest.raises(InputError, match="REF_INVALID"):
            check_ref(ref)


def make(path: Path) -> Path:
    (path / "objects").mkdir(parents=True)
    (path / "HEAD").write_text("ref: refs/heads/main\n")
    (path / "config").write_text("[core]\n\tbare = true\n")
    return path


def test_bare_clone_and_linked_work_tree_are_found(tmp_path: Path) -> None:
    bare = make(tmp_path / "bare")
    clone = make(tmp_path / "clone" / ".git")
    linked = clone / "worktrees" / "w"
    linked.mkdir(parents=True)
    (linked / "HEAD").write_text("ref: refs/heads/w\n")
    (linked / "commondir").write_text("../..\n")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / ".git").write_text(f"gitdir: {linked}\n")
    assert find_local(str(bare)).git_directory == bare
    assert find_local(str(clone.parent)).git_directory == clone
    found = find_local(str(tmp_path / "w"))
    assert (found.git_directory, found.common) == (linked, clone)


def test_what_is_no_repository_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / ".git").write_text("nonsense")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / ".git").write_text("gitdir: /nowhere/at/all\n")
    for name in ("file", "empty", "odd", "gone", "missing"):
        with pytest.raises(InputError, match="REPOSITORY_NOT_FOUND"):
            find_local(str(tmp_path / name))
    with pytest.raises(InputError, match="REPOSITORY_INVALID"):
        find_local(str(tmp_path / "a\nb"))


def test_repository_that_would_lead_git_elsewhere_is_refused(tmp_path: Path) -> None:
    clone = make(tmp_path / "clone" / ".git")
    make(clone / ".git")
    with pytest.raises(InputError, match="REPOSITORY_NOT_FOUND"):
        find_local(str(clone.parent))


def test_repository_of_another_uid_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = make(tmp_path / "bare")
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(Refused, match="REPOSITORY_OWNER"):
        find_local(str(bare))
