"""Escapes tried inside a real sandbox before a worker trusts its backend (threats 2.1)."""

from __future__ import annotations

import json
from importlib import resources

from schemas.error import InfrastructureError
from schemas.testing import Limits

from .port import Probe, RootFilesystem, SandboxBackend, SandboxSpec

LIMITS = Limits(memory_mb=256, pids=16, wall_ms=20_000, output_bytes=65_536, disk_mb=16)


def run(backend: SandboxBackend, root: RootFilesystem) -> tuple[Probe, ...]:
    """One probe for each property; a probe that did not report is not ok."""
    folder = resources.files(__package__).joinpath("inside")
    with resources.as_file(folder) as runner:
        spec = SandboxSpec(
            root=root,
            argv=(root.python, "-I", "-S", "-B", "/gen4/probe.py"),
            env={"GEN4_PROBE": "1"},
            limits=LIMITS,
            runner=runner,
            labels={"gen4.purpose": "probe"},
        )
        with backend.start(spec) as process:
            reported = [json.loads(line) for line in process.lines()]
            ended = process.finish()
    if ended.ending != "exited" or ended.exit_code != 0:
        raise InfrastructureError(
            "SANDBOX_START_FAILED",
            f"the probe {ended.ending} with {ended.exit_code}: {ended.stderr[-500:].decode(errors='replace')}",
            "run `gen4 doctor`",
        )
    return tuple(Probe(str(one["name"]), bool(one["ok"]), str(one["detail"])) for one in reported)


def failures(probes: tuple[Probe, ...]) -> tuple[Probe, ...]:
    """What speaks against a backend. No report at all does too."""
    missing = EXPECTED - {probe.name for probe in probes}
    return (*(probe for probe in probes if not probe.ok), *(Probe(name, False, "not reported") for name in sorted(missing)))


EXPECTED = frozenset(
    {
        *("network", "keyring", "userns", "vsock", "io_uring", "ptrace", "mount", "bpf", "host_files", "sysfs", "host_proc"),
        *("capabilities", "no_new_privs", "identity", "read_only_root", "devices", "environment", "descriptors"),
    }
)
