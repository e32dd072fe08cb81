"""Compile as build servers run it: the templates' own shell lines in fresh clones, and the plain Temporal client."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.cli.test_compile_reports import obeyed
from tests.e2e.ci_templates import TEMPLATES, GitHubRunner, github_steps, gitlab_scripts
from tests.e2e.harness import BUGGY, Fabric, git, write_repository
from workers.toolchain import locate

ROOT = TEMPLATES.parents[1]
BROKEN = ("return low", "return high")
MENDED = ("if value < high", "if value > high")
FILES = BUGGY | {"requirements.txt": "pytest\n"}


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """main with a bug; mend and break are branches; pull/mend and pull/break their merge commits, as a forge makes them."""
    path = tmp_path_factory.mktemp("forge") / "shop"
    path.mkdir()
    write_repository(path, FILES)
    for branch, (old, new) in (("mend", MENDED), ("break", BROKEN)):
        git(path, "checkout", "-q", "-b", branch, "main")
        source = path / "src/shop/price.py"
        source.write_text(source.read_text().replace(old, new))
        git(path, "commit", "-q", "-a", "-m", branch)
        git(path, "checkout", "-q", "--detach", "main")
        git(path, "merge", "-q", "--no-ff", "-m", f"merge {branch}", branch)
        git(path, "branch", f"pull-{branch}")
    git(path, "checkout", "-q", "main")
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a build server's jobs: a home of their own, our checkout in place of the clone that they would make."""
    home = tmp_path_factory.mktemp("ci") / "home"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GEN4_") or name == "GEN4_CACHE"}
    cache = {"GEN4_CACHE": os.environ.get("GEN4_CACHE", str(Path.home() / ".local/state/gen4-cache"))}
    environment = kept | cache | {"GEN4": str(ROOT), "GEN4_HOME": str(home)}
    yield environment
    subprocess.run([sys.executable, "-m", "cli.main", "down"], env=environment, cwd=ROOT, capture_output=True, check=False)


def checkout(forge: Path, workspace: Path, branch: str) -> Path:
    """What the checkout action leaves of a pull request: two commits of depth, a detached head."""
    workspace.mkdir(parents=True)
    source = workspace / "source"
    git(workspace, "clone", "-q", "--depth=2", "--branch", branch, f"file://{forge}", str(source))
    git(source, "checkout", "-q", "--detach")
    return source


def test_the_github_workflow_accepts_a_pull_request_and_leaves_evidence(
    forge: Path, server: dict[str, str], tmp_path: Path
) -> None:
    checkout(forge, tmp_path / "workspace", "pull-mend")
    runner = GitHubRunner(tmp_path / "workspace", dict(server))
    steps = github_steps()
    assert [step.name for step in steps] == ["Install", "Compile", "Trust root", "Verify", "Stop"]
    assert [step.name for step in steps if step.always] == ["Trust root", "Stop"], "a refusal's report is verified with it, too"
    assert runner.run(steps) == 0, runner.log
    junit = ElementTree.parse(runner.temp / "junit.xml").getroot()  # noqa: S314  our own output
    assert junit[1].get("tests") == "7" and junit[1].get("failures") == "0"
    assert json.loads((runner.temp / "gen4.sarif").read_text())["runs"][0]["results"] == []
    assert "## gen4 compile: accepted" in (runner.temp / "GITHUB_STEP_SUMMARY").read_text()
    assert obeyed(runner.log) == []
    stamp = json.loads((runner.temp / "evidence" / "stamp.json").read_text())
    assert stamp["source"]["base_commit"] == git(forge, "rev-parse", "main"), "the first parent of the merge commit"
    _in_toto_accepts(runner.temp)


def _in_toto_accepts(temp: Path) -> None:
    """With what the job uploads and nothing else: bundle, attestations, trust root."""
    trust = json.loads(base64.b64decode(json.loads((temp / "trust" / "trust.json").read_bytes())["payload"]))
    (temp / "signer.pub").write_text(trust["signers"][-1]["public_key"])
    shutil.copytree(temp / "evidence", temp / "copy")
    links = str(temp / "evidence.attestations")
    argv = [f"{Path(sys.executable).parent}/in-toto-verify", "-l", f"{links}/root.layout", "--link-dir", links]
    argv += ["--verification-keys", str(temp / "signer.pub")]
    done = subprocess.run(argv, cwd=temp / "copy", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_gitlab_job_refuses_a_merge_request_and_says_why(forge: Path, server: dict[str, str], tmp_path: Path) -> None:
    """In a shallow clone that has no commit but the last, as the default of a project makes it."""
    git(tmp_path, "clone", "-q", "--depth=1", "--branch", "break", f"file://{forge}", "project")
    scripts = gitlab_scripts()
    variables = {"CI_MERGE_REQUEST_DIFF_BASE_SHA": git(forge, "rev-parse", "main"), "GITLAB_CI": "true"}
    job = {"env": server | variables, "cwd": tmp_path / "project", "text": True, "timeout": 300, "check": False}
    lines = "\n".join([*scripts["before_script"], *scripts["script"]])
    done: Any = subprocess.run(["bash", "-eo", "pipefail", "-c", lines], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **job)
    assert done.returncode == 1, done.stdout
    project = tmp_path / "project"
    assert {path.name for path in (project / "evidence").iterdir()} == {
        "rejection.json", "rejection.md", "rejection.intoto.json"
    }  # fmt: skip
    report = json.loads((project / "evidence" / "rejection.json").read_text())
    assert "REG_TEST_LOST" in report["codes"] and report["next"] == "revise"
    results = json.loads((project / "gen4.sarif").read_text())["runs"][0]["results"]
    places = [place["physicalLocation"]["artifactLocation"]["uri"] for result in results for place in result.get("locations", ())]
    assert "tests/test_price.py" in places
    assert "## gen4 compile: rejected" in (project / "summary.md").read_text()
    junit = ElementTree.parse(project / "junit.xml").getroot()  # noqa: S314  our own output
    assert int(junit[0].get("failures", "0")) >= 1
    refused: Any = subprocess.run(["bash", "-ec", '"$GEN4/.venv/bin/gen4" verify evidence'], capture_output=True, **job)
    assert refused.returncode == 1, refused.stderr
    after: Any = subprocess.run(["bash", "-eo", "pipefail", "-c", "\n".join(scripts["after_script"])], capture_output=True, **job)
    assert after.returncode == 0, after.stderr
    known = "--trust trust/trust.json --root-key trust/root.pub"  # what the job uploads tells whose report it is
    shown: Any = subprocess.run(["bash", "-ec", f'"$GEN4/.venv/bin/gen4" verify evidence {known}'], capture_output=True, **job)
    assert shown.returncode == 1 and "signed by" in shown.stdout, shown


def test_the_plain_temporal_client_starts_a_compile(fabric: Fabric) -> None:
    """As the guide shows it."""
    path = fabric.repository("plain", FILES)
    source = path / "src/shop/price.py"
    source.write_text(source.read_text().replace(*MENDED))
    request = {"repository": str(path), "ref": "main", "patch": git(path, "diff") + "\n"}
    (fabric.repositories / "compile.json").write_text(json.dumps(request))
    address = fabric.status()["temporal_address"]
    temporal = [str(locate("temporal").path), "workflow"]
    where = ["--address", address, "--workflow-id", "ci-1", "-o", "json"]
    start = ["start", "--type", "Compile", "--task-queue", "gen4", "--input-file", str(fabric.repositories / "compile.json")]
    done = subprocess.run([*temporal, *start, *where], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*temporal, "result", *where], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["rejection"] is None, result
    assert fabric.gen4("verify", result["bundle"]).code == 0


def test_what_is_no_patch_is_rejected_with_a_signed_report(fabric: Fabric, tmp_path: Path) -> None:
    repository = fabric.repository("no-patch", FILES)
    out = tmp_path / "evidence"
    done = fabric.gen4("compile", "-r", str(repository), "--patch", "-", "--out", str(out), "--json", stdin="not a patch\n")
    assert (done.code, done.json["rejection"]["codes"]) == (1, ["PATCH_DOES_NOT_APPLY"]), done.err
    report = json.loads((out / "rejection.json").read_bytes())
    assert (report["failed_gate"], report["next"], report["evidence_refs"]) == ("compile", "revise", [report["patch_sha256"]])
    shown = fabric.gen4("verify", str(out), "--json")
    assert shown.code == 1 and shown.json["rejection"]["signed_by"] and not shown.json["rejection"]["problem"]


@pytest.mark.parametrize("asked", ["--budget=micros=999999999999", "--limits=memory_mb=999999999", "--limits=pids=99999"])
def test_a_request_for_more_than_policy_admits_is_refused_and_nothing_is_written(
    fabric: Fabric, tmp_path: Path, asked: str
) -> None:
    repository = fabric.repository(asked.strip("-"), FILES)
    out = tmp_path / "evidence"
    done = fabric.gen4("compile", "-r", str(repository), "--patch", "-", "--out", str(out), asked, stdin="not a patch\n")
    assert done.code == 1, done.err
    assert "_ABOVE_POLICY: " in done.out + done.err and not out.exists()
