"""`gen4 verify`: many bundles, what it prints of its trust, what it refuses, and all of it without a network."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from activities.evidence import rejection
from activities.evidence.external import external_trajectory
from activities.evidence.signing import Signer
from activities.evidence.trusting import ROOT_PUBLIC, encode_trust, write_trust
from activities.kernel.signing_keys import pem_of
from cli.main import run
from schemas.canonical import jcs, sha256_hex
from schemas.evidence import PATCH, PAYLOAD_TYPE, timestamp_of
from schemas.rejection import REPORT, STATEMENT
from tests.cli.commands import Gen4
from tests.evidence.test_rejection import made
from tests.evidence.workshop import POLICY_DIGEST, Workshop, make_workshop, reference

ROOT = Path(__file__).resolve().parents[2]
MUSEUM = ROOT / "tests" / "evidence" / "museum"


@pytest.fixture(scope="module")
def workshop() -> Workshop:
    return make_workshop()


@pytest.fixture(scope="module")
def root() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def desk(workshop: Workshop, root: ec.EllipticCurvePrivateKey, tmp_path: Path) -> Path:
    """A folder with two good bundles, one bad one, and the trust file."""
    for name in ("one", "two", "bad"):
        (tmp_path / name).mkdir()
        for member, data in workshop.files.items():
            (tmp_path / name / member).write_bytes(data + (b"\n" if (name, member) == ("bad", PATCH) else b""))
    issue(tmp_path, workshop, root, 3)
    return tmp_path


def issue(desk: Path, workshop: Workshop, root: ec.EllipticCurvePrivateKey, version: int, **changes: Any) -> None:
    now = int(time.time())
    dated = {"version": version, "issued_at": timestamp_of(now - 86_400), "expires_at": timestamp_of(now + 86_400)}
    write_trust(desk / "trust.json", workshop.trust.model_copy(update={**dated, **changes}), root)
    (desk / ROOT_PUBLIC).write_text(pem_of(root.public_key()))


def test_good_bundles_are_accepted_together(gen4: Gen4, desk: Path) -> None:
    code, document = gen4("verify", f"{desk}/one", f"{desk}/two", "--trust", f"{desk}/trust.json")
    assert (code, document["accepted"], len(document["bundles"])) == (0, True, 2)
    assert {one["verdict"] for one in document["bundles"]} == {"pass"}
    assert document["bundles"][0]["not_checked"] == ["PATCH_TREE"]
    assert document["bundles"][0]["bundle_digest"].startswith("sha256:") and document["bundles"][0]["stamp_id"].startswith("stm_")


def test_one_bad_bundle_among_good_ones_refuses(gen4: Gen4, desk: Path) -> None:
    code, document = gen4("verify", f"{desk}/one", f"{desk}/bad", "--trust", f"{desk}/trust.json")
    assert (code, document["accepted"]) == (1, False)
    assert [one["verdict"] for one in document["bundles"]] == ["pass", "fail"]


def test_it_says_whom_it_believes(desk: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", f"{desk}/one", "--trust", f"{desk}/trust.json"]) == 0
    out = capsys.readouterr().out
    assert "version 3, issued 1 day" in out and "root key" in out and "PATCH_TREE" in out and "not checked" in out


def test_what_was_not_checked_can_be_refused(gen4: Gen4, desk: Path) -> None:
    code, document = gen4("verify", f"{desk}/one", "--trust", f"{desk}/trust.json", "--require-all")
    assert (code, document["verdict"], document["accepted"]) == (1, "pass", False)
    assert run(["verify", f"{desk}/one", "--trust", f"{desk}/trust.json", "--require-all"]) == 1


def test_an_older_trust_file_is_refused(
    gen4: Gen4, desk: Path, workshop: Workshop, root: ec.EllipticCurvePrivateKey, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gen4("verify", f"{desk}/one", "--trust", f"{desk}/trust.json")[0] == 0
    issue(desk, workshop, root, 2)
    assert run(["verify", f"{desk}/one", "--trust", f"{desk}/trust.json"]) == 2
    assert "TRUST_ROLLBACK" in capsys.readouterr().err


def test_another_root_key_is_refused(gen4: Gen4, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stranger = desk / "stranger.pub"
    stranger.write_text(pem_of(ec.generate_private_key(ec.SECP256R1()).public_key()))
    assert run(["verify", f"{desk}/one", "--trust", f"{desk}/trust.json", "--root-key", str(stranger)]) == 2
    assert "TRUST_INVALID" in capsys.readouterr().err


def test_an_expired_trust_file_is_refused(
    home: Path, desk: Path, workshop: Workshop, root: ec.EllipticCurvePrivateKey, capsys: pytest.CaptureFixture[str]
) -> None:
    issue(desk, workshop, root, 4, expires_at=timestamp_of(int(time.time()) - 1))
    assert run(["verify", f"{desk}/one", "--trust", f"{desk}/trust.json"]) == 2
    assert "TRUST_EXPIRED" in capsys.readouterr().err


def test_only_the_named_policy_counts(gen4: Gen4, desk: Path) -> None:
    trust = ("--trust", f"{desk}/trust.json")
    assert gen4("verify", f"{desk}/one", *trust, "--policy", POLICY_DIGEST)[0] == 0
    code, document = gen4("verify", f"{desk}/one", *trust, "--policy", "sha256:" + "0" * 64)
    assert code == 1
    assert [check["reason"] for check in document["checks"] if check["code"] == "POLICY_DIGEST"] == ["not_listed"]
    assert run(["verify", f"{desk}/one", *trust, "--policy", "none"]) == 2


@pytest.mark.parametrize(("expect", "code"), [("task_id=task-1", 0), ("task_id=other", 1), ("task=other", 2), ("task_id", 2)])
def test_the_bundle_of_another_task_is_refused(home: Path, desk: Path, expect: str, code: int) -> None:
    assert run(["verify", f"{desk}/one", "--trust", f"{desk}/trust.json", "--expect", expect]) == code


def _another_message(files: dict[str, bytes]) -> None:
    files[REPORT] = files[REPORT].replace(b"fails now", b"is fine!!")


def _no_statement(files: dict[str, bytes]) -> None:
    del files[STATEMENT]


def _no_report(files: dict[str, bytes]) -> None:
    files[REPORT] = b'{"codes":[]}'


def _nothing(files: dict[str, bytes]) -> None:
    """As it was signed."""


@pytest.mark.parametrize(
    ("change", "own", "problem"),
    [
        (_nothing, True, ""), (_nothing, False, "no key of the trust file signed it"),
        (_another_message, True, "not this report"), (_no_statement, True, "missing"), (_no_report, True, "not a report"),
    ],
)  # fmt: skip
def test_a_rejection_report_is_no_bundle_and_is_believed_only_if_it_is_signed(
    gen4: Gen4, desk: Path, workshop: Workshop, change: Callable[[dict[str, bytes]], None], own: bool, problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    signer = workshop.signer if own else Signer(ec.generate_private_key(ec.SECP256R1()))
    report = made(message="tests/test_a.py::test_b fails now \u001b[2J")
    files = {REPORT: rejection.document(report), STATEMENT: jcs(signer.sign(PAYLOAD_TYPE, rejection.statement(report).payload))}
    change(files)
    folder = desk / "rejected"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    code, document = gen4("verify", str(folder), "--trust", f"{desk}/trust.json")
    assert (code, document["verdict"], document["accepted"]) == (1, "fail", False)
    assert bool(document["rejection"]["signed_by"]) == (not problem) and problem in document["rejection"]["problem"]
    assert run(["verify", str(folder), "--trust", f"{desk}/trust.json"]) == 1
    out = capsys.readouterr().out
    assert "no Evidence Bundle" in out and "\x1b" not in out and ("not to be believed" in out) == bool(problem)


def test_bundles_and_trust_of_the_first_release_still_verify(gen4: Gen4) -> None:
    code, document = gen4("verify", f"{MUSEUM}/stamp-1", "--trust", f"{MUSEUM}/trust-1.json")
    assert (code, document["verdict"], document["trust"]["version"]) == (0, "pass", 0)


def test_without_a_trust_file_nothing_is_believed(home: Path, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", f"{desk}/one"]) == 2
    assert "TRUST_INVALID" in capsys.readouterr().err


def test_an_unsigned_file_where_a_root_key_is_known(home: Path, desk: Path, workshop: Workshop) -> None:
    (desk / "trust.json").write_bytes(encode_trust(workshop.trust))
    assert run(["verify", f"{desk}/one", "--trust", f"{desk}/trust.json"]) == 2


# --- with the repository ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repaired(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Workshop]:
    """A repository with a bug, and a workshop whose bundle mends it."""
    folder = tmp_path_factory.mktemp("source")
    git = ["git", "-c", "user.name=mo", "-c", "user.email=mo@example.com", "-c", "init.defaultBranch=main", "-C", str(folder)]

    def ask(*arguments: str) -> str:
        return subprocess.run([*git, *arguments], check=True, capture_output=True, text=True).stdout

    (folder / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    ask("init", "-q")
    ask("add", "calc.py")
    ask("commit", "-q", "-m", "base")
    (folder / "calc.py").write_text("def add(a, b):\n    return a + b\n")
    ask("add", "calc.py")
    diff = ask("diff", "--cached", "--full-index", "--no-color").encode()
    base, base_tree = ask("rev-parse", "HEAD", "HEAD^{tree}").split()
    result = ask("write-tree").strip()
    line = f"100644 {sha256_hex((folder / 'calc.py').read_bytes())} calc.py\n"
    source = workshop.inputs.source.model_copy(update={"base_commit": base, "base_tree": base_tree})
    patch = workshop.request.patch.model_copy(
        update={"base_tree": base_tree, "result_tree": result, "diff": reference(diff), "patch_sha256": sha256_hex(diff)}
    )
    inputs = dataclasses.replace(
        workshop.inputs, source=source, diff=diff, trajectory=external_trajectory(source, patch, sha256_hex(line.encode()))
    )
    request = workshop.request.model_copy(update={"source": source, "patch": patch})
    return folder, dataclasses.replace(workshop, inputs=inputs, request=request)


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({}, None, ""), ({"result_tree": "0" * 40}, "PATCH_TREE", "tree"), ({"base_tree": "0" * 40}, "PATCH_TREE", "BASE_TREE"),
        ({"base_commit": "0" * 40}, "PATCH_TREE", "BASE_TREE"),
    ],
)  # fmt: skip
def test_the_repository_decides_what_the_patch_does(
    gen4: Gen4, desk: Path, repaired: tuple[Path, Workshop], change: dict[str, str], code: str | None, reason: str
) -> None:
    repository, workshop = repaired

    def alter(stamp: dict[str, Any]) -> None:
        stamp["source"].update(change)
        stamp["gates"]["regression"]["baseline_commit"] = stamp["source"]["base_commit"]

    for name, data in workshop.remade(workshop.inputs, stamp=alter).items():
        (desk / "one" / name).write_bytes(data)
    exit_code, document = gen4(
        "verify", f"{desk}/one", "--trust", f"{desk}/trust.json", "--repository", str(repository), "--require-all"
    )
    refused = [(check["code"], check["reason"]) for check in document["checks"] if check["checked"] and not check["ok"]]
    assert (exit_code, refused[:1]) == (int(code is not None), [(code, reason)] if code else [])
    assert code or document["not_checked"] == []


def test_it_works_with_networking_off(desk: Path, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "GEN4_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-m", "cli.main", "verify"]
    done = subprocess.run(
        [*command, f"{desk}/one", f"{desk}/bad", "--trust", f"{desk}/trust.json", "--json"],
        cwd=ROOT, env=environment, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert [one["verdict"] for one in json.loads(done.stdout)["bundles"]] == ["pass", "fail"]
