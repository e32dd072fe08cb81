"""A repository under the operator's roots cannot lead git to one that lies outside (rows 1.1, 3.3)."""

from __future__ import annotations

from pathlib import Path

import pytest

from activities.kernel.repositories import RepositoryRules
from schemas.error import InputError
from tests.e2e.harness import git, write_repository


@pytest.fixture
def private(tmp_path: Path) -> Path:
    return write(tmp_path / "private")


def write(path: Path) -> Path:
    write_repository(path, {"secret.py": "TOKEN = 'x'\n"})
    return path


def refused(rules: RepositoryRules, repository: Path) -> str:
    with pytest.raises(InputError) as caught:
        rules.admit(str(repository))
    assert caught.value.remedy
    return caught.value.code


def test_a_git_file_that_points_outside(tmp_path: Path, private: Path) -> None:
    bait = tmp_path / "roots" / "bait"
    bait.mkdir(parents=True)
    (bait / ".git").write_text(f"gitdir: {private}/.git\n")
    assert refused(RepositoryRules((tmp_path / "roots",)), bait) == "REPOSITORY_OUTSIDE_ROOTS"
    assert RepositoryRules((tmp_path / "roots", private)).admit(str(bait)).protocol == "file"


def test_a_git_folder_that_is_a_link(tmp_path: Path, private: Path) -> None:
    bait = tmp_path / "roots" / "bait"
    bait.mkdir(parents=True)
    (bait / ".git").symlink_to(private / ".git")
    assert refused(RepositoryRules((tmp_path / "roots",)), bait) == "REPOSITORY_OUTSIDE_ROOTS"


def test_a_common_folder_that_lies_outside(tmp_path: Path, private: Path) -> None:
    bait = tmp_path / "roots" / "bait"
    (bait / ".git").mkdir(parents=True)
    (bait / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (bait / ".git" / "commondir").write_text(f"{private}/.git\n")
    assert refused(RepositoryRules((tmp_path / "roots",)), bait) == "REPOSITORY_OUTSIDE_ROOTS"


def test_a_linked_work_tree_beside_its_repository_is_admitted(tmp_path: Path) -> None:
    main = write(tmp_path / "roots" / "main")
    git(main, "worktree", "add", "-q", "--detach", str(tmp_path / "roots" / "linked"))
    rules = RepositoryRules((tmp_path / "roots",))
    assert rules.admit(str(tmp_path / "roots" / "linked")).address == str(tmp_path / "roots" / "linked")
    assert refused(RepositoryRules((tmp_path / "roots" / "linked",)), tmp_path / "roots" / "linked") == "REPOSITORY_OUTSIDE_ROOTS"


def test_what_is_no_repository_is_left_to_who_reads_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert RepositoryRules((tmp_path,)).admit(str(tmp_path / "empty")).protocol == "file"
