"""``gen4 ga diff --strict BASE HEAD`` as a user runs it: what got worse, and who answers for it."""

from __future__ import annotations

import json

from tests.e2e.harness import Fabric, git

FILES = {
    "shop.py": "def total(prices):\n    return sum(prices)\n",
    "tests/test_shop.py": """from shop import total


def test_total():
    assert total([1, 2]) == 3


def test_none():
    assert not total([])
""",
    "bench.py": "import time\n\ntime.sleep(0.02)\n",
    "requirements.txt": "pytest\n", "CODEOWNERS": "* @us\n",
}  # fmt: skip
WORSE = """

import subprocess


def run(line):
    return subprocess.call(line, shell=True)


def unused(a):
""" + "    a += 1\n" * 12


def test_what_got_worse_between_two_commits_and_who_answers_for_it(fabric: Fabric) -> None:
    repository = fabric.repository("compared", FILES)
    git(repository, "tag", "good")
    (repository / "shop.py").write_text(FILES["shop.py"] + WORSE)
    (repository / "bench.py").write_text("import time\n\ntime.sleep(0.2)\n")
    (repository / "requirements.txt").write_text("pytest\nchardet==5.2.0\n")
    git(repository, "rm", "-q", "CODEOWNERS")
    (repository / "tests" / "test_shop.py").write_text(FILES["tests/test_shop.py"].replace("test_none", "test_empty"))
    git(repository, "commit", "-q", "-am", "worse")
    waivers = [
        {"id": metric, "metric": metric, "subject": subject, "owner": "alice", "reason": "known", "expires_at": end}
        for metric, subject, end in [
            ("coverage", "*", "2999-01-01T00:00:00Z"), ("security", "CODEOWNERS", "2020-01-01T00:00:00Z"),
            ("licences", "chardet", "2999-01-01T00:00:00Z"), ("size", "*", "2999-01-01T00:00:00Z"),
        ]
    ]  # fmt: skip
    (fabric.repositories / "waivers.json").write_text(json.dumps(waivers))
    done = fabric.gen4(
        "ga", "diff", "--strict", "good", "HEAD", "-r", str(repository), "--runs", "2", "--benchmark", "python bench.py",
        "--waivers", "waivers.json", "--json",
    )  # fmt: skip
    assert done.code == 1, done.err
    report = done.json["report"]
    failed = {check["code"]: check["actual"] for check in report["checks"] if check["checked"] and not check["ok"]}
    assert set(failed) == {
        "REG_TEST_LOST", "REG_PERFORMANCE", "REG_SECURITY", "REG_CONTROL_REMOVED", "REG_WAIVER_EXPIRED",
    }, failed  # fmt: skip
    assert "tests/test_shop.py::test_none" in failed["REG_TEST_LOST"] and "benchmark" in failed["REG_PERFORMANCE"]
    assert "shop.py:9: B602" in failed["REG_SECURITY"]
    verdicts = {metric["name"]: (metric["verdict"], metric["waived"]) for metric in report["metrics"]}
    assert verdicts == {
        "tests": ("fail", False), "performance": ("fail", False), "security": ("fail", False), "coverage": ("fail", True),
        "licences": ("fail", True), "dependencies": ("pass", False), "size": ("pass", False),
    }  # fmt: skip
    events = fabric.gen4("events", done.json["workflow_id"], "--json").json
    granted = [event for event in events if event["kind"] == "waiver.granted"]
    assert sorted(event["payload"]["id"] for event in granted) == ["coverage", "licences"]
