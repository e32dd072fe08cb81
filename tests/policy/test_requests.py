"""Facts about repository addresses: what git would read otherwise than a person is not plain, what is not listed not admitted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.policy.requests import repository_facts, request_facts
from tests.policy.running import RunningOpa

HOSTS = ("git.example.org",)


def verdict(opa: RunningOpa, repository: str, roots: tuple[Path, ...] = ()) -> str:
    limits = {"wall_ms": 1_800_000, "candidates": 3}
    facts = request_facts(repository, "main", "branch", None, roots=roots, hosts=HOSTS, limits=limits, budget={})
    return opa.engine.decide("gen4.request", facts.model_dump(mode="json")).decision


def test_local_paths_lie_under_a_root(opa: RunningOpa, tmp_path: Path) -> None:
    roots, inside = (tmp_path / "roots",), tmp_path / "roots" / "a repository"
    inside.mkdir(parents=True)
    (tmp_path / "roots" / "link").symlink_to(tmp_path)
    assert verdict(opa, str(inside), roots) == "allow"
    assert verdict(opa, str(roots[0]), roots) == "allow"
    for outside in (tmp_path, tmp_path / "roots-too", roots[0] / "..", roots[0] / "link", Path("/")):
        assert verdict(opa, str(outside), roots) == "deny", outside
    assert verdict(opa, "roots/a repository", roots) == "deny"
    assert verdict(opa, str(inside), ()) == "deny"


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.org/a.git", "https://GIT.example.org:8443/a", "ssh://git@git.example.org/a.git",
        "https://git.example.org/with%20space",
    ],
)  # fmt: skip
def test_listed_hosts(opa: RunningOpa, url: str) -> None:
    assert verdict(opa, url) == "allow"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a", "https://git.example.org.evil/a", "http://git.example.org/a", "git://git.example.org/a",
        "file:///a", "ext::sh -c x", "ext://git.example.org/a", "https://user:secret@git.example.org/a",
        "https://evil@example.org/git.example.org", "https://git.example.org%2f@evil/a", "https://git.example.org\\@evil/a",
        "-oProxyCommand=x:git.example.org", "--upload-pack=x", "ssh://-oProxyCommand=x/a", "https://[::1", "", " ", "https:///a",
        "https://git.example.org/a\n", "https://git.example.org/a\u202e", "fd::17/a", "git@git.example.org:a/b.git",
        "git.example.org:a", "c:\\a", "transport::https://git.example.org/a",
    ],
)  # fmt: skip
def test_everything_else_is_denied(opa: RunningOpa, url: str) -> None:
    assert verdict(opa, url) == "deny"


@given(st.text(max_size=60))
def test_total(text: str) -> None:
    facts = repository_facts(text, (Path("/srv/repositories"),), HOSTS)
    if facts.plain and facts.admitted and facts.kind == "path":
        assert Path(text).resolve().is_relative_to("/srv/repositories")
