"""Reads the shell lines out of the CI templates and runs them as build servers do. What it does not know is an error.

There is no YAML parser among our packages; the templates use so little of YAML that this reads them whole.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

TEMPLATES = Path(__file__).resolve().parents[2] / "deploy" / "ci"
_STEP = re.compile(r"      - (?:name|uses): (.+)")
_KEY = re.compile(r" *(?:- )?[A-Za-z0-9_-]+:(?: .*)?")


@dataclass(frozen=True)
class Step:
    """``always``: it runs although an earlier one failed."""

    name: str
    script: str
    always: bool


def github_steps() -> list[Step]:
    """The steps that run shell lines, in order."""
    lines = (TEMPLATES / "github-actions.yml").read_text().splitlines()
    assert not any("\t" in line for line in lines)
    steps: list[Step] = []
    name, always, script, inside = "", False, [], False
    for line in [*lines, "      - uses: end"]:
        if inside and (line.startswith(" " * 10) or not line):
            script.append(line[10:])
            continue
        inside = False
        if found := _STEP.fullmatch(line.split(" # ")[0]):
            if script:
                steps.append(Step(name, "\n".join(script), always))
            name, always, script = found[1], False, []
        elif line == "        if: always()":
            always = True
        elif line == "        run: |":
            inside = True
        else:
            assert not line or line.lstrip().startswith("#") or _KEY.fullmatch(line) or line.startswith(" " * 12), line
            assert "run: " not in line or line.strip() == "run:", line
    return steps


def gitlab_scripts() -> dict[str, list[str]]:
    """The lines of ``before_script``, ``script`` and ``after_script``."""
    found: dict[str, list[str]] = {}
    current = ""
    for line in (TEMPLATES / "gitlab-ci.yml").read_text().splitlines():
        if section := re.fullmatch(r"  (before_script|script|after_script):", line):
            current = section[1]
            found[current] = []
        elif current and line.startswith("    - "):
            text = line.removeprefix("    - ")
            quoted = re.fullmatch(r"'(.*)'", text)
            assert quoted or not re.match(r"[\"'&*!|>%@{\[]|.*: ", text), f"YAML reads this line as something else: {text}"
            found[current].append(quoted[1] if quoted else text)
        elif not current or not line.startswith("    # "):
            current = ""
            assert not line or line.startswith(("#", "    - if: ")) or _KEY.fullmatch(line), line
    return found


@dataclass
class GitHubRunner:
    """What of GitHub's runner a job sees: a workspace, files for variables and PATH, ``bash -eo pipefail``."""

    workspace: Path
    environment: dict[str, str]
    log: str = ""
    ran: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.temp = self.workspace.parent / "runner-temp"
        self.temp.mkdir()
        for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY"):
            (self.temp / name).touch()
            self.environment[name] = str(self.temp / name)
        self.environment |= {"GITHUB_ACTIONS": "true", "CI": "true", "RUNNER_TEMP": str(self.temp)}

    def run(self, steps: list[Step]) -> int:
        """The job's exit code."""
        failed = 0
        for step in steps:
            if failed and not step.always:
                continue
            path = ":".join([*reversed((self.temp / "GITHUB_PATH").read_text().split()), self.environment["PATH"]])
            set_by_steps = dict(line.split("=", 1) for line in (self.temp / "GITHUB_ENV").read_text().splitlines())
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step.script], cwd=self.workspace / "source",
                env=self.environment | set_by_steps | {"PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                timeout=300, text=True, check=False,
            )  # fmt: skip
            self.log += done.stdout
            self.ran.append(step.name)
            failed = failed or done.returncode
        return failed
