"""Test plans, environments, limits and canonical results ``{nodeid: outcome}`` (contracts §10; explore-verify §6)."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from schemas.canonical import jcs_sha256
from schemas.model import BlobRef, Digest, GitId, Payload, Sha256

TestOutcome = Literal["passed", "failed", "error", "skipped", "xfailed", "xpassed"]
Outcomes = dict[str, TestOutcome]
FAILING: frozenset[TestOutcome] = frozenset({"failed", "error"})


class TestPlan(Payload):
    """One pytest invocation, parsed from the request's command; never a string for a shell."""

    __test__ = False

    pytest_args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    """Only variables that the command itself set (``env NAME=VALUE …``)."""
    python_path: tuple[str, ...] = ()
    """Folders of the tree, relative to its root, that go first on ``sys.path``: from PYTHONPATH, else ``src`` and the root."""
    argv: tuple[str, ...] = ()
    """The command as the user wrote it, split; for people and for the run key."""
    runner: Literal["pytest", "node"] = "pytest"
    """``node``: Node's own test runner (``node --test``), for JavaScript targets."""
    node_args: tuple[str, ...] = ()
    """Arguments behind ``node --test``, of runner ``node``."""
    frozen_clock: bool = False
    """Asked for by the request: the wall clock of the tests stands at the commit time (monotonic clocks run on)."""

    @property
    def named_tests(self) -> tuple[str, ...]:
        """Files of tests that the command itself names, as globs for :func:`schemas.test_paths.is_named`: whatever they are
        called, a patch must not decide what they say. Doctests are of the very files that a patch mends, so with them none is.
        """
        if "--doctest-modules" in self.pytest_args:
            return ()
        files = (re.sub(r"([*?[{}])", r"[\1]", word.partition("::")[0]) for word in self.pytest_args if not word.startswith("-"))
        globs = (word for word in self.node_args if not word.startswith("-"))
        return tuple(sorted({"/".join(part for part in word.split("/") if part not in ("", ".")) for word in (*files, *globs)}))


class RunVariant(Payload):
    """What a run does differently. Only runs of the default variant give verdicts; the others explain."""

    hash_seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 0
    order: Literal["collected", "reversed"] = "collected"
    clock: int | None = None
    """UTC seconds at which the wall clock of the tests stands; None: as the plan says."""
    only: tuple[str, ...] = ()
    """Test ids to run; empty: all."""


class Limits(Payload):
    """Every limit has an enforcing consumer in each sandbox backend."""

    memory_mb: int = 2048
    cpus: float = 1.0
    pids: int = 256
    wall_ms: int = 600_000
    output_bytes: int = 32 * 1024 * 1024
    disk_mb: int = 1024
    test_ms: int = 60_000
    """One test may run this long."""


class Wheel(Payload):
    name: str
    version: str
    sha256: Sha256
    filename: str
    license: str = ""


class OwnDistribution(Payload):
    """What ``importlib.metadata`` says about the project under test, which is not installed but imported from its tree."""

    name: str
    version: str
    entry_points: str = ""
    """Content of ``entry_points.txt``."""


class EnvironmentLock(Payload):
    """``env/1``: what an environment is made of; its digest identifies the environment."""

    schema_version: Literal["env/1"] = "env/1"
    base_digest: Digest
    platform: str
    python_version: str
    profile: str
    """Version of the rules by which the wheels become a folder."""
    wheels: tuple[Wheel, ...]
    origin: str
    """Where the requirements came from, e.g. ``request`` or ``requirements-dev.txt``."""
    project: OwnDistribution | None = None


class NodePackage(Payload):
    """One entry of a package lock. ``path``: its folder, e.g. ``node_modules/a/node_modules/b``; ``sha256`` of its tarball."""

    path: str
    name: str
    version: str
    sha256: Sha256
    integrity: str
    """``sha512-…`` as the package lock has it."""
    license: str = ""
    link: str = ""
    """Folder of the tree that it is a link to (a workspace); then there is no tarball, and ``sha256`` is that of nothing."""


class NodeEnvironmentLock(EnvironmentLock):
    """``env/2``: Node and the packages of a package lock. ``wheels`` holds the one that brings Node."""

    schema_version: Literal["env/2"] = "env/2"  # type: ignore[assignment]
    node_version: str
    packages: tuple[NodePackage, ...]


def read_lock(data: bytes) -> EnvironmentLock | NodeEnvironmentLock:
    """A lock of either form. Raises pydantic.ValidationError."""
    either: TypeAdapter[NodeEnvironmentLock | EnvironmentLock] = TypeAdapter(NodeEnvironmentLock | EnvironmentLock)
    return either.validate_json(data)


class Environment(Payload):
    """A built environment: a folder of installed wheels, bound read-only beside the base root filesystem."""

    environment_digest: Digest
    base_digest: Digest
    lock: BlobRef
    python_version: str
    platform: str


class SandboxFacts(Payload):
    """What ran and how each limit was enforced, for doctor and the stamp (threats 2.4)."""

    backend: Literal["docker", "bubblewrap"]
    version: str
    profile_sha256: Sha256
    enforcement: dict[str, Literal["cgroup", "rlimit", "kernel", "watchdog", "none"]]


RunStatus = Literal["passed", "failed", "irreproducible", "infra_error"]
"""``irreproducible``: no single run is; it is what the run cache says of a key whose agreed results differ (contracts §10)."""


class TestRun(Payload):
    """One execution of a plan on a tree. ``outcomes`` is a blob of JCS ``{nodeid: outcome}``."""

    __test__ = False

    status: RunStatus
    codes: tuple[str, ...] = ()
    """Why nothing may be concluded, e.g. TESTS_NONE_COLLECTED, MODULES_OUTSIDE_TREE, RUN_TIMEOUT, HARNESS_BROKEN; TEST_TIMEOUT
    only explains: its test is ``failed``; PYTEST_CHANGED says that parts of pytest (or of what
    Node's tests rest on) were replaced, as some suites do."""
    message: str = ""
    outcomes: BlobRef
    outcomes_sha256: Sha256
    counts: dict[str, int]
    exit_code: int
    runner: str
    """``pytest 9.2.0``"""
    run_key: Sha256
    sandbox: SandboxFacts
    variant: RunVariant = RunVariant()
    cached: bool = False
    """The result of an earlier run with the same run key; its receipt is the earlier one's."""
    receipt: BlobRef | None = None
    """DSSE envelope around :class:`schemas.receipt.RunReceipt`, signed by the executor that ran it."""
    coverage: BlobRef | None = None
    """JCS of :data:`Coverage`; None where it was not measured."""
    timings: BlobRef | None = None
    """JCS ``{nodeid: microseconds of its call phase}``; never part of evidence that is compared byte by byte."""
    executor: str = ""
    """Hint of the key of the executor that ran it, see :func:`activities.kernel.signing_keys.hint_of`."""
    network: tuple[str, ...] = ()
    """Tests (at most 100) that tried to use the network, for the explanation of a flake."""


Coverage = dict[str, dict[str, list[int]]]
"""Path in the tree to ``{"lines": executable lines, "covered": those that ran}``, ascending; test files are left out."""


class Flake(Payload):
    """A test whose outcome depends on something that a run varies. ``causes``: what explains it, most likely first."""

    nodeid: str
    tree: Literal["base", "patched"]
    outcomes: tuple[str, ...]
    """What was seen, e.g. ``passed``, ``failed``, ``missing``."""
    causes: tuple[Literal["order", "seed", "time", "network", "unknown"], ...]
    introduced: bool = False
    """Stable on base under the same variant: the patch brought it."""


class Patch(Payload):
    """A change of one tree into another, as a git diff in the content store."""

    base_tree: GitId
    result_tree: GitId
    diff: BlobRef
    patch_sha256: Sha256
    paths: tuple[str, ...]


def outcomes_sha256(outcomes: Outcomes) -> str:
    """Canonical digest of results: sorted ids and outcomes, nothing else (no durations, times, paths)."""
    return jcs_sha256(dict(outcomes))


def counts_of(outcomes: Outcomes) -> dict[str, int]:
    counts: dict[str, int] = {}
    for outcome in outcomes.values():
        counts[outcome] = counts.get(outcome, 0) + 1
    return dict(sorted(counts.items()))
