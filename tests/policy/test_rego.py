"""The policies themselves: strict, formatted, tested, without a way to the outside."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path

from activities.policy.bundle import policy_sources
from schemas import capabilities as declared
from schemas.capabilities import CAPABILITIES
from tests.policy.running import opa_program

POLICIES = Path(__file__).resolve().parents[2] / "policies"
BANNED = re.compile(
    r"^(http\.send|opa\.runtime|net\..*|providers\..*|rand\.intn|uuid\.rfc4122|time\.now_ns|rego\.parse_module|trace|print)$"
)
"""Built-ins by which a decision would depend on something else than its input, or reach outside."""


def opa(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(opa_program()), *arguments], cwd=POLICIES, input=stdin, capture_output=True, text=True, timeout=120, check=False
    )


def test_strict_and_without_banned_builtins(tmp_path: Path) -> None:
    capabilities = json.loads(opa("capabilities", "--current").stdout)
    capabilities["builtins"] = [builtin for builtin in capabilities["builtins"] if not BANNED.match(builtin["name"])]
    capabilities["allow_net"] = []
    allowed = tmp_path / "capabilities.json"
    allowed.write_text(json.dumps(capabilities))
    done = opa("check", "--strict", "--capabilities", str(allowed), ".")
    assert done.returncode == 0, done.stderr


def test_the_ban_bites() -> None:
    names = {builtin["name"] for builtin in json.loads(opa("capabilities", "--current").stdout)["builtins"]}
    banned = {name for name in names if BANNED.match(name)}
    assert {"http.send", "opa.runtime", "time.now_ns", "net.lookup_ip_addr", "print"} <= banned


def test_formatted() -> None:
    done = opa("fmt", "--fail", "--list", ".")
    assert done.returncode == 0, f"run opa fmt -w policies: {done.stdout}"


def test_every_rego_test_passes_and_every_line_is_covered() -> None:
    done = opa("test", "--fail-on-empty", ".")
    assert done.returncode == 0, done.stdout
    covered = opa("test", "--coverage", "--threshold", "100", ".")
    assert covered.returncode == 0, covered.stderr


def test_rules_say_what_passes_and_never_what_is_not() -> None:
    """A negation passes when a fact is missing; a comparison does not (evidence §13)."""
    for name, source in policy_sources().items():
        if name.endswith(".rego"):
            code = re.sub(r"#.*|\"[^\"]*\"", "", source.decode())
            assert not re.search(r"\bnot\b", code), name


def test_each_package_passes_exactly_what_the_data_requires() -> None:
    required = json.loads((POLICIES / "data.json").read_text())["required"]
    for package, names in required.items():
        source = (POLICIES / f"{package}.rego").read_text()
        assert set(re.findall(r'passed contains "([^"]+)"', source)) == set(names), package
        assert set(re.findall(r'findings contains \{"rule_id": "([^"]+)"', source)) == set(names), package


def test_each_rule_is_tested_by_name() -> None:
    """Every check is subtracted in some test: a deny that is its alone."""
    required = json.loads((POLICIES / "data.json").read_text())["required"]
    for package, names in required.items():
        tests = (POLICIES / f"{package}_test.rego").read_text()
        assert all(f'"{name}"' in tests for name in names), package


def test_policy_knows_exactly_the_declared_capabilities() -> None:
    phases = json.loads((POLICIES / "data.json").read_text())["phases"]
    assert {name for phase in phases.values() for name in phase["capabilities"]} == set(CAPABILITIES)


def test_each_phase_may_use_exactly_what_its_workflow_calls() -> None:
    """Least privilege, kept so by a test: a call that the table lacks fails here and not in production."""
    phases = json.loads((POLICIES / "data.json").read_text())["phases"]
    modules = {
        "control": ("remediation", "machine"), "explore": ("explore",), "diff": ("ga_diff", "alone"),
        "compile": ("compile", "compilation", "tree_runs", "measuring", "rejecting", "earlier_compilation", "alone"),
        "release": ("release",), "operations": ("reaper", "reconciliation", "checkpointing"),
    }  # fmt: skip
    for phase, names in modules.items():
        called = set[str]().union(*(_called(POLICIES.parent / "workflows" / f"{name}.py") for name in names))
        assert called == set(phases[phase]["capabilities"]), phase


def _called(module: Path) -> set[str]:
    return {
        getattr(declared, node.args[0].id).id
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "call" and isinstance(node.args[0], ast.Name)
    }
