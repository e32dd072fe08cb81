"""The bundle is a function of the sources, and the OPA that serves it does nothing but answer."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path

import pytest
import requests

from activities.policy import bundle as bundles
from activities.policy.bundle import build_bundle, load_bundle, opa_argv, opa_environment, policy_sources, write_credentials
from schemas.error import InfrastructureError
from tests.policy.running import RunningOpa, opa_program


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    first = build_bundle(opa_program(), tmp_path / "one" / "policy.tar.gz")
    time.sleep(1.1)  # archives keep times in seconds
    second = build_bundle(opa_program(), tmp_path / "two.tar.gz")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert (first.digest, first.revision) == (second.digest, second.revision) == load_bundle(first.path)[1:]


def test_another_word_is_another_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build_bundle(opa_program(), tmp_path / "a.tar.gz")
    changed = policy_sources()
    changed["data.json"] = changed["data.json"].replace(b'"tests"]', b'"coverage"]')
    monkeypatch.setattr(bundles, "policy_sources", lambda: changed)
    after = build_bundle(opa_program(), tmp_path / "b.tar.gz")
    assert before.digest != after.digest and before.revision != after.revision


def test_tests_and_tokens_stay_out(tmp_path: Path) -> None:
    built = build_bundle(opa_program(), tmp_path / "a.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(built.path.read_bytes())) as archive:
        names = archive.getnames()
    assert not [name for name in names if "_test" in name or name.endswith(".py")] and "/patch.rego" in names


def test_broken_rego_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "policy_sources", lambda: {**policy_sources(), "x.rego": b"package x\nallow if"})
    with pytest.raises(InfrastructureError) as caught:
        build_bundle(opa_program(), tmp_path / "a.tar.gz")
    assert caught.value.code == "POLICY_BUILD_FAILED" and not (tmp_path / "a.tar.gz").exists()


def test_an_opa_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError) as caught:
        build_bundle(tmp_path / "absent", tmp_path / "a.tar.gz")
    assert caught.value.code == "POLICY_BUILD_FAILED"


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_bundle_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(InfrastructureError) as caught:
        load_bundle(tmp_path / "a.tar.gz")
    assert caught.value.code == "POLICY_BUNDLE_UNREADABLE"


def test_the_token_is_kept_by_its_holder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    token = write_credentials(folder)
    assert folder.stat().st_mode & 0o077 == 0
    for file in folder.iterdir():
        assert token not in file.read_text() and file.stat().st_mode & 0o077 == 0
    assert write_credentials(folder) != token


def test_the_start_is_hardened(tmp_path: Path) -> None:
    built = build_bundle(opa_program(), tmp_path / "a.tar.gz")
    argv = opa_argv(opa_program(), built, tmp_path, 1234)
    text = " ".join(argv)
    assert "--authentication token --authorization basic --skip-version-check" in text and "--addr 127.0.0.1:1234" in text
    assert set(opa_environment()) == {"PATH", "HOME", "LC_ALL"}


@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/v1/policies"), ("PUT", "/v1/policies/x"), ("DELETE", "/v1/policies/patch.rego"), ("GET", "/v1/data"),
        ("PUT", "/v1/data/phases"), ("PATCH", "/v1/data/phases"), ("POST", "/v1/data/credentials"), ("POST", "/v1/data/gen4"),
        ("POST", "/v1/query"), ("POST", "/v1/compile"), ("GET", "/v1/config"), ("GET", "/v1/status"), ("POST", "/"),
        ("GET", "/metrics"), ("POST", "/v0/data/gen4/patch/decision"), ("POST", "/v1/data/gen4/../credentials"),
        ("POST", "/v1/data/gen4%2Fgate%2Fknown"), ("GET", "/v1/data/gen4/gate/known"),
    ],
)  # fmt: skip
def test_nothing_but_decisions_even_with_the_token(opa: RunningOpa, method: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {opa.token}"}
    request = requests.Request(method, opa.url + path, headers=headers, data=json.dumps({"input": {}})).prepare()
    request.url = opa.url + path
    with requests.Session() as session:
        session.trust_env = False
        assert session.send(request, allow_redirects=False, timeout=5).status_code in (301, 307, 401)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}])
def test_no_decision_without_the_token(opa: RunningOpa, headers: dict[str, str]) -> None:
    answer = requests.post(f"{opa.url}/v1/data/gen4/gate/known", headers=headers, json={}, timeout=5)
    assert answer.status_code == 401 and "forge" not in answer.text
