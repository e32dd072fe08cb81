"""``gen4 verify``: check an Evidence Bundle offline, with nothing but a trust root."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from activities.evidence.keys import TRUST_FILE, load_trust
from activities.evidence.reading import read_bundle
from activities.evidence.verification import verify_bundle
from activities.record.home import Home
from activities.record.objects import ObjectStore
from cli.fabric import Json
from cli.output import emit, show
from schemas.canonical import strict_json
from schemas.error import InputError
from schemas.evidence import STAMP
from schemas.gates import GateReport
from schemas.model import Door, GitId
from workers.settings import read_settings


class GitIdOnly(Door):
    id: GitId


def register(app: typer.Typer) -> None:
    @app.command()
    def verify(
        directory: Annotated[Path, typer.Argument(help="The bundle: a folder with exactly eight or nine files.")],
        trust: Annotated[
            Path | None, typer.Option(help="Trust root file; default: that of GEN4_HOME. Never taken from the bundle.")
        ] = None,
        repository: Annotated[
            Path | None,
            typer.Option(
                "--repository", "-r", help="Repository with the base commit: also checks that the patch gives the stated tree."
            ),
        ] = None,
        as_json: Json = False,
    ) -> None:
        """Verify an Evidence Bundle. Works offline; needs no fabric, no login, no key.

        Every check has a stable code; the first that fails decides. Exit code 0: verified, 1: refused.

        Example: `gen4 verify evidence --trust trust.json --repository .`
        """
        report = check(directory, trust or Home.open(read_settings().home).keys / TRUST_FILE, repository)
        emit(report) if as_json else print_report(directory, report)
        raise typer.Exit(0 if report.verdict == "pass" else 1)


def check(directory: Path, trust: Path, repository: Path | None) -> GateReport:
    if not directory.is_dir():
        raise InputError("BUNDLE_NOT_FOUND", f"{directory} is not a folder", "give the folder of an Evidence Bundle")
    root, now_ms = load_trust(trust), time.time_ns() // 1_000_000
    if repository is None:
        return verify_bundle(directory, root, now_ms=now_ms)
    with tempfile.TemporaryDirectory(prefix="gen4-verify-") as scratch:
        objects = ObjectStore.open(Path(scratch) / "objects.git")
        commit = _base_commit(directory)
        if commit is not None:
            objects.fetch(str(repository.absolute()), commit)
        return verify_bundle(directory, root, objects=objects, now_ms=now_ms)


def _base_commit(directory: Path) -> str | None:
    """The commit to fetch before the checks. Only a hint: what the stamp says is checked by the checks."""
    try:
        stamp = strict_json(read_bundle(directory).files[STAMP])
        return GitIdOnly(id=stamp["source"]["base_commit"]).id
    except (ValueError, KeyError, TypeError):
        return None


def print_report(directory: Path, report: GateReport) -> None:
    for item in report.checks:
        mark = "not checked" if not item.checked else "ok" if item.ok else "REFUSED"
        detail = " ".join(part for part in (item.member, item.reason) if part)
        show(f"  {item.code:<22} {mark} {detail}")
        if item.checked and not item.ok:
            if item.expected or item.actual:
                show(f"      expected {item.expected}, found {item.actual}")
            show(f"      → {item.remedy}")
    show(f"{'verified' if report.verdict == 'pass' else 'refused'}: {directory}")
