"""From request to released fix through the command line, on a real server and in real sandboxes."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from schemas.capability import WORKFLOW_QUEUE
from tests.e2e.harness import BUGGY, Fabric, closed, git
from workers.client import connect

TEST_X = "from lib import x\n\n\ndef test_x():\n    assert x == 1\n"


def test_an_approved_fix_is_released_as_a_signed_commit_on_a_new_branch(fabric: Fabric, approved: dict[str, Any]) -> None:
    repository, result = approved["repository"], approved["result"]
    assert result["outcome"] == "merged"
    assert result["fix"] == "complete"
    commit, ref = result["release"]["commit"], result["release"]["ref"]
    assert ref.startswith("refs/heads/gen4/")
    assert git(repository, "rev-parse", ref) == commit
    assert git(repository, "rev-parse", f"{commit}^") == approved["head"]
    message = git(repository, "log", "-1", "--format=%B", commit)
    for trailer in ("Assisted-by: ", "Gen4-Task: ", f"Gen4-Evidence: {result['bundle_digest']}"):
        assert trailer in message
    assert "Signed-off-by" not in message
    assert "-----BEGIN SSH SIGNATURE-----" in git(repository, "cat-file", "commit", commit)


def test_the_working_tree_and_the_checked_out_branch_are_untouched(approved: dict[str, Any]) -> None:
    repository = approved["repository"]
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "rev-parse", "main") == approved["head"]


def test_the_bundle_verifies_offline_and_with_the_repository(fabric: Fabric, approved: dict[str, Any]) -> None:
    bundle, trust = approved["result"]["bundle"], approved["result"]["trust"]
    assert fabric.gen4("verify", bundle, "--trust", trust).code == 0
    report = fabric.gen4("verify", bundle, "--trust", trust, "--repository", str(approved["repository"]), "--json")
    assert report.code == 0, report.out
    assert next(check for check in report.json["checks"] if check["code"] == "PATCH_TREE")["checked"]


@pytest.mark.parametrize("member", ["diff.patch", "test_results.json", "policy_check.json", "trajectory.jsonl", "sbom.cdx.json",
                                    "checksums.sha256", "stamp.json", "provenance.intoto.json"])  # fmt: skip
def test_a_bundle_altered_in_any_member_is_refused(fabric: Fabric, approved: dict[str, Any], tmp_path: Path, member: str) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(approved["result"]["bundle"], copy)
    for path in (copy, copy / member):
        path.chmod(0o755 if path == copy else 0o644)
    data = bytearray((copy / member).read_bytes())
    data[len(data) // 2] ^= 0x01
    (copy / member).write_bytes(bytes(data))
    refused = fabric.gen4("verify", str(copy), "--trust", approved["result"]["trust"])
    assert refused.code == 1, refused.out
    assert "REFUSED" in refused.out


def test_the_same_approval_does_nothing_twice(fabric: Fabric, approved: dict[str, Any]) -> None:
    again = fabric.gen4("approve", approved["workflow_id"], "--digest", approved["digest"])
    assert again.code in (1, 2), again.out
    chain = fabric.gen4("events", approved["workflow_id"], "--json").json
    assert [event["kind"] for event in chain].count("approval.redeemed") == 1
    assert [event["kind"] for event in chain].count("change.opened") == 1


def test_the_event_chain_of_the_session_verifies(fabric: Fabric, approved: dict[str, Any]) -> None:
    done = fabric.gen4("events", approved["workflow_id"], "--verify")
    assert done.code == 0, done.out
    transitions = [
        (event["payload"]["from_state"], event["payload"]["signal"], event["payload"]["to_state"])
        for event in fabric.gen4("events", approved["workflow_id"], "--json").json
        if event["kind"] == "session.transition"
    ]
    assert transitions[0] == ("Intake", "IntentReceived", "PolicyReview")
    assert transitions[-1][2] == "Closed"
    assert all(before[2] == after[0] for before, after in itertools.pairwise(transitions))


def test_a_merge_fast_forwards_a_bare_repository_and_a_rejection_changes_nothing(fabric: Fabric) -> None:
    repository = fabric.repository("merge", bare=True)
    head = git(repository, "rev-parse", "main")
    first = fabric.gen4(
        "remediate", "-r", str(repository), "-g", "clamp", "--release", "merge", "--until", "approval", "--json"
    ).json
    second = fabric.gen4(
        "remediate", "-r", str(repository), "-g", "clamp", "--release", "merge", "--until", "approval", "--json"
    ).json
    rejected = fabric.gen4("reject", second["workflow_id"], "--reason", "one is enough")
    assert rejected.code == 0, rejected.err
    ended = fabric.wait_for(second["workflow_id"], closed)
    assert ended["result"]["outcome"] == "rejected"
    assert git(repository, "rev-parse", "main") == head

    wrong = fabric.gen4("approve", first["workflow_id"], "--digest", "sha256:" + "0" * 64)
    assert wrong.code == 1
    assert "DIGEST_MISMATCH" in wrong.err
    assert fabric.gen4("approvals", "show", first["workflow_id"]).code == 0
    approve = fabric.gen4("approve", first["workflow_id"], "--digest", first["approval"]["action_digest"])
    assert approve.code == 0, approve.err
    result = fabric.wait_for(first["workflow_id"], closed)["result"]
    assert result["release"]["ref"] == "refs/heads/main"
    assert git(repository, "rev-parse", "main") == result["release"]["commit"]
    assert git(repository, "rev-parse", "main^") == head


def test_a_patch_from_ci_is_compiled_to_the_same_kind_of_bundle(fabric: Fabric, tmp_path: Path) -> None:
    repository = fabric.repository("ci")
    source = repository / "src/shop/price.py"
    source.write_text(source.read_text().replace("if value < high", "if value > high"))
    patch = git(repository, "diff") + "\n"
    git(repository, "checkout", "-q", "--", ".")
    out = tmp_path / "evidence"
    done = fabric.gen4(
        "compile", "-r", str(repository), "--base", "main", "--patch", "-", "--out", str(out), "--json", stdin=patch
    )
    assert done.code == 0, done.err + done.out
    assert fabric.gen4("verify", str(out)).code == 0
    results = json.loads((out / "test_results.json").read_bytes())
    assert len(results["fail_to_pass"]) == 3


def test_a_patch_that_mends_nothing_is_rejected_with_its_code(fabric: Fabric, tmp_path: Path) -> None:
    repository = fabric.repository("ci-bad")
    source = repository / "src/shop/price.py"
    source.write_text(source.read_text().replace("percent", "per cent"))
    patch = tmp_path / "change.patch"
    patch.write_text(git(repository, "diff") + "\n")
    done = fabric.gen4(
        "compile", "-r", str(repository), "--base", "main", "--patch", str(patch), "--out", str(tmp_path / "e"), "--json"
    )
    assert done.code == 1
    assert "NOTHING_FIXED" in done.json["rejection"]["codes"]
    names = {path.name for path in (tmp_path / "e").iterdir()}
    assert names >= {"rejection.json", "rejection.md", "rejection.intoto.json"} and "stamp.json" not in names


@pytest.mark.parametrize(
    ("name", "files", "code"),
    [
        ("no-tests", {"lib.py": "x = 1\n"}, "NO_TESTS"),
        ("no-failing", {"lib.py": "x = 1\n", "tests/test_lib.py": TEST_X}, "NO_FAILING_TEST"),
        ("syntax", {"lib.py": "x = (:\n", "tests/test_lib.py": TEST_X}, "NO_FIX_FOUND"),
    ],
)  # fmt: skip
def test_repositories_that_cannot_be_repaired_say_why(fabric: Fabric, name: str, files: dict[str, str], code: str) -> None:
    repository = fabric.repository(name, files)
    done = fabric.gen4("remediate", "-r", str(repository), "-g", "repair it", "--until", "closed", "--json")
    assert done.code == 1, done.err
    assert code in done.json["rejection"]["codes"], done.json
    assert done.json["rejection"]["remedy"]


def test_a_repository_outside_the_roots_is_refused_at_once(fabric: Fabric, tmp_path: Path) -> None:
    from tests.e2e.harness import write_repository

    write_repository(tmp_path / "elsewhere", BUGGY)
    done = fabric.gen4("remediate", "-r", str(tmp_path / "elsewhere"), "-g", "x", "--until", "closed", "--json")
    assert done.code in (1, 2)
    assert "REPOSITORY_OUTSIDE_ROOTS" in done.out + done.err


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["remediate", "-r", "."], "--goal"),
        (["remediate", "-r", ".", "-g", "x", "--test", "make test"], "TEST_COMMAND_INVALID"),
        (["remediate", "-r", ".", "-g", ""], "goal"),
        (["verify", "/nowhere"], "BUNDLE_NOT_FOUND"),
        (["events", "no-such-session"], "SESSION_UNKNOWN"),
    ],
)
def test_bad_usage_exits_with_2_and_says_what_is_wrong(fabric: Fabric, arguments: list[str], fragment: str) -> None:
    done = fabric.gen4(*arguments)
    assert done.code == 2, done.err
    assert fragment in done.err


@pytest.mark.parametrize(
    ("sent", "reason"),
    [({"repository": "/r"}, "goal"), ([{"repository": "/r", "goal": "g"}], "object"), (None, "no input"), ("x", "object")],
)  # fmt: skip
def test_wrong_input_from_the_start_form_fails_at_once_and_the_command_line_says_why(
    fabric: Fabric, sent: Any, reason: str
) -> None:
    id = f"form-{uuid.uuid4()}"

    async def started() -> None:
        client = await connect(fabric.state()["temporal_address"], "default")
        handle = await client.start_workflow("Remediation", sent, id=id, task_queue=WORKFLOW_QUEUE)
        with pytest.raises(WorkflowFailureError):
            await asyncio.wait_for(handle.result(), 30)

    asyncio.run(started())
    done = fabric.gen4("session", id)
    assert done.code == 2, done.out
    assert "INVALID_INPUT" in done.err and reason in done.err
