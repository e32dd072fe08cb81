"""``make demo``: a real, published bug from request to released fix, through every stage, on this machine.

The buggy release's sources get the fixed release's tests; both archives are fetched as files and checked by hash, and
nothing of the fixed sources reaches the disk of the engine. What the demo leaves is ``build/demo/summary.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from temporalio.client import Client

from activities.control.approvers import add_approver, new_key, sign_decision
from activities.evidence.signing import load_signer
from activities.evidence.trusting import ensure_trust
from activities.record.home import Home
from cli import session
from cli.demo_source import Pair, fetch_pair, load_pairs
from cli.local import open_local
from cli.output import explain, say, show
from cli.remediate import print_result
from cli.review import review
from cli.verify import check
from schemas.approval import Decision
from schemas.error import Gen4Error, InfrastructureError, InputError
from schemas.request import ReleaseChoice, RemediationRequest, SessionResult
from schemas.status import SessionStatus
from workers import fabric
from workers.client import connect
from workers.settings import Settings, read_settings, state_directory

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "demo"
PAIRS = ROOT / "deploy" / "demo" / "pairs.json"
DEFAULT_PAIR = "voluptuous__0.12.1__0.12.2"
MARKER = "made-by-gen4-demo"
GIT_ENVIRONMENT = {
    "PATH": os.environ.get("PATH", os.defpath), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "demo", "GIT_AUTHOR_EMAIL": "demo@localhost", "GIT_AUTHOR_DATE": "1600000000 +0000",
    "GIT_COMMITTER_NAME": "demo", "GIT_COMMITTER_EMAIL": "demo@localhost", "GIT_COMMITTER_DATE": "1600000000 +0000",
}  # fmt: skip
"""Nothing of the user's configuration, and fixed dates: the commit id is the same on every machine."""


@dataclass
class Clock:
    """Names and durations of the demo's own steps, in order."""

    stages: list[dict[str, str | float]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.stages.append({"name": name, "seconds": round(time.monotonic() - began, 3)})


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--pair", default=DEFAULT_PAIR, help="id of a pair in deploy/demo/pairs.json")
    pair_id = parser.parse_args(arguments).pair
    pairs = load_pairs(PAIRS)
    if pair_id not in pairs:
        raise InputError("PAIR_UNKNOWN", f"no pair {pair_id!r}", "choose one of " + ", ".join(sorted(pairs)))
    clock = Clock()
    settings = _fresh_home()
    with clock.stage("fetch the published bug"):
        repository = build_repository(pairs[pair_id])
    key = new_key(Home.open(settings.home).keys / "demo-approver", comment="gen4-demo-approver")
    add_approver(Home.open(settings.home), "demo-captain", key)
    try:
        with clock.stage("start the fabric"):
            state = fabric.start(settings, say)
        result = session.run(_remediate(settings, state, pairs[pair_id], repository, key, clock))
    finally:
        fabric.stop(Home.open(settings.home))
    return _conclude(settings, repository, result, clock)


def _fresh_home() -> Settings:
    """A home of the demo's own, outside the repository; only a folder that an earlier demo made is replaced."""
    home = state_directory() / "gen4-demo"
    if home.exists():
        if not (home / MARKER).exists():
            raise InputError("DEMO_HOME_TAKEN", f"{home} was not made by the demo", "move it away")
        fabric.stop(Home.open(home))
        shutil.rmtree(home)
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    Home.open(home)
    (home / MARKER).touch()
    for name in [name for name in os.environ if name in ("GEN4_HOME", "GEN4_REPOSITORY_ROOTS")]:
        del os.environ[name]
    return read_settings().model_copy(update={"home": home, "repository_roots": (BUILD,)})


def build_repository(pair: Pair) -> Path:
    """A bare repository with one commit on main: the buggy sources under the tests that reveal the bug."""
    tree = fetch_pair(pair, BUILD / "sources")
    repository = BUILD / "repository.git"
    _git(repository, "init", "-q", "--bare", "-b", "main")
    _git(repository, "--work-tree", str(tree), "add", "-A", "-f")
    _git(repository, "--work-tree", str(tree), "commit", "-q", "-m", f"{pair.package} {pair.buggy_version}")
    (repository / "index").unlink()
    shutil.rmtree(tree)
    say(f"{pair.package} {pair.buggy_version} with the tests of {pair.fixed_version}, in {repository.relative_to(ROOT)}")
    return repository


def _git(repository: Path, *arguments: str) -> None:
    subprocess.run(["git", "--git-dir", str(repository), *arguments], env=GIT_ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


async def _remediate(
    settings: Settings, state: fabric.FabricState, pair: Pair, repository: Path, key: Path, clock: Clock
) -> SessionResult:
    client: Client = await connect(state.temporal_address, state.namespace, external=state.external)
    show(f"the bug: {pair.problem_statement}")
    for nodeid in pair.fail_to_pass:
        show(f"  fails now: {nodeid}")
    request = RemediationRequest(
        repository=str(repository),
        goal=pair.problem_statement,
        ref="refs/heads/main",
        test_command=tuple(shlex.split(pair.test_cmd)),
        requirements=pair.extra_requirements,
        failing_tests=pair.fail_to_pass,
        release=ReleaseChoice(mode="merge"),
    )
    handle = await session.start(client, "Remediation", request, "demo")
    show(f"session {handle.id}")
    if link := state.workflow_link(handle.id):
        show(f"  watch it: {link}")
    stages = session.display()
    waiting = await session.follow(handle, lambda now: now.approval is not None and now.approval.status == "pending", stages)
    if waiting is not None and waiting.approval is not None:
        with clock.stage("review and approve"):
            await _approve(settings, client, handle.id, waiting, key)
        waiting = await session.follow(handle, lambda _: False, stages) or waiting
    result = await session.result_of(handle)
    final = await session.status_of(handle) or waiting
    for stage in final.stages if final is not None else ():
        clock.stages.append({"name": stage.name, "seconds": round(stage.seconds, 3)})
    return result


async def _approve(settings: Settings, client: Client, workflow_id: str, waiting: SessionStatus, key: Path) -> None:
    """What a release captain does: recompute, look at the diff, sign, signal."""
    local = open_local(settings)
    assert waiting.approval is not None
    request = local.approval(waiting.approval.approval_id)
    seen = review(request, local)
    show("it waits for an approval; what it would release, recomputed from bundle and commit:")
    for line in seen.diff.splitlines():
        show(f"  {line}")
    if not seen.consistent:
        raise InfrastructureError("DEMO_REVIEW", f"the request does not match what is there: {seen.checks}")
    reason = "the demo's captain read the diff"
    decision = Decision(
        approval_id=request.approval_id, action_digest=request.action_digest, reason=reason,
        signature=sign_decision(request, "approve", reason, {}, key),
    )  # fmt: skip
    show(f"approve {request.action_digest} (SSH signature by the demo's key)")
    await client.get_workflow_handle(workflow_id).signal("approve", decision.model_dump(mode="json", exclude_defaults=True))


def _conclude(settings: Settings, repository: Path, result: SessionResult, clock: Clock) -> int:
    print_result(result)
    if result.release is None or result.bundle is None or result.trust is None:
        return 1
    with clock.stage("verify the bundle"):
        verified = check(Path(result.bundle), Path(result.trust), repository)
    refused = check(Path(result.bundle), _trust_of_somebody_else(), None)
    show(f"  gen4 verify: {verified.verdict} with this machine's trust root")
    show(f"  gen4 verify: {refused.verdict} with somebody else's ({', '.join(refused.codes)})")
    summary = {
        "home": str(settings.home), "workflow_id": result.workflow_id, "repository": str(repository), "bundle": result.bundle,
        "trust": result.trust, "release": result.release.model_dump(mode="json"), "stages": clock.stages,
    }  # fmt: skip
    (BUILD / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    show("  summary: build/demo/summary.json")
    return 0 if verified.verdict == "pass" and refused.verdict == "fail" else 1


def _trust_of_somebody_else() -> Path:
    """A trust root that names another signer: a bundle is worth what the verifier trusts, not what it says of itself."""
    keys = BUILD / "somebody-else"
    keys.mkdir(mode=0o700)
    now_s = int(time.time())
    return ensure_trust(keys, load_signer(keys).trusted(now_s), (), now_s)


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except Gen4Error as error:
        explain(error, False)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
