"""``gen4 verify``: check Evidence Bundles offline, with nothing but a trust file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from activities.evidence.reading import read_member
from activities.evidence.refusal import Refusal, read_refusal
from activities.evidence.trusting import SEEN_FILE, TRUST_FILE, LoadedTrust, read_trust
from activities.evidence.verification import examine_bundle
from activities.evidence.vsa import VERIFIER_ID
from activities.record.home import Home
from activities.record.objects import ObjectStore
from cli.digests import digest, git_id
from cli.fabric import Json
from cli.output import emit, show
from schemas.canonical import strict_json
from schemas.error import Gen4Error, InputError, Refused
from schemas.evidence import STAMP, timestamp_of
from schemas.gates import GateReport
from schemas.statement import ExternalParameters
from schemas.trust import Trust
from workers.settings import read_settings


@dataclass(frozen=True)
class Verified:
    """What was found in one folder."""

    directory: Path
    report: GateReport
    bundle_digest: str
    stamp_id: str
    refusal: Refusal | None
    """A Rejection Report in place of a bundle."""

    @property
    def not_checked(self) -> list[str]:
        return [check.code for check in self.report.checks if not check.checked]

    def accepted(self, require_all: bool) -> bool:
        return self.report.verdict == "pass" and not (require_all and self.not_checked)


def register(app: typer.Typer) -> None:
    @app.command()
    def verify(
        directories: Annotated[list[Path], typer.Argument(help="Bundles: each a folder with exactly eight or nine files.")],
        trust: Annotated[
            Path | None, typer.Option(help="Trust file; default: that of GEN4_HOME. Never taken from the bundle.")
        ] = None,
        root_key: Annotated[
            Path | None, typer.Option(help="Public key (PEM) of the root that signs the trust file; default: root.pub beside it.")
        ] = None,
        repository: Annotated[
            Path | None,
            typer.Option(
                "--repository", "-r", help="Repository with the base commit: also checks that the patch gives the stated tree."
            ),
        ] = None,
        require_all: Annotated[
            bool, typer.Option("--require-all", help="Refuse what could not be checked, too, e.g. for want of --repository.")
        ] = False,
        policy: Annotated[
            list[str] | None, typer.Option(help="Accept only decisions of this policy digest (sha256:…), of those trusted.")
        ] = None,
        expect: Annotated[
            list[str] | None, typer.Option(help="NAME=VALUE that the bundle must be for: task_id, repository, ref or profile.")
        ] = None,
        as_json: Json = False,
    ) -> None:
        """Verify Evidence Bundles. Works offline; needs no fabric, no login, no key.

        Every check has a stable code; the first that fails decides. Exit code 0: all verified, 1: at least one refused.

        Example: `gen4 verify evidence --trust trust.json --repository .`
        """
        expected = _expected(expect or [])
        loaded = _trust(trust, root_key)
        believed = _only(loaded.trust, policy or [])
        found = _check_all(directories, believed, repository, expected)
        accepted = all(one.accepted(require_all) for one in found)
        if as_json:
            emit(_document(found, loaded, require_all))
        else:
            _print_trust(loaded)
            for one in found:
                print_report(one.directory, one.report, one.refusal, require_all)
        raise typer.Exit(0 if accepted else 1)


def check(directory: Path, trust: Path, repository: Path | None) -> GateReport:
    """Raises InputError BUNDLE_NOT_FOUND, and of a trust file that cannot be believed."""
    return _check_all([directory], read_trust(trust).trust, repository, {})[0].report


def _trust(trust: Path | None, root_key: Path | None) -> LoadedTrust:
    """The trust file, not older than what this user saw before. Where no home can be had, nothing was seen."""
    try:
        keys = Home.open(read_settings().home).keys
    except Gen4Error:
        if trust is None:
            raise
        return read_trust(trust, root=root_key)
    return read_trust(trust or keys / TRUST_FILE, root=root_key, seen=keys / SEEN_FILE)


def _only(trust: Trust, policies: list[str]) -> Trust:
    wanted = {digest(text, "POLICY_INVALID") for text in policies}
    if not wanted:
        return trust
    return trust.model_copy(update={"policy_digests": tuple(one for one in trust.policy_digests if one in wanted)})


def _expected(pairs: list[str]) -> dict[str, str]:
    expected = dict(pair.partition("=")[::2] for pair in pairs if "=" in pair)
    names = sorted(ExternalParameters.model_fields)
    if len(expected) != len(pairs) or not expected.keys() <= set(names):
        raise InputError("EXPECT_INVALID", "--expect takes NAME=VALUE, each name once", f"names are {', '.join(names)}")
    return expected


def _check_all(
    directories: list[Path], trust: Trust, repository: Path | None, expected: Mapping[str, str]
) -> list[Verified]:
    for directory in directories:
        if not directory.is_dir():
            raise InputError("BUNDLE_NOT_FOUND", f"{directory} is not a folder", "give the folder of an Evidence Bundle")
    with ExitStack() as stack:
        objects = None
        if repository is not None:
            objects = ObjectStore.open(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gen4-verify-"))) / "git")
        return [_check(directory, trust, objects, repository, expected) for directory in directories]


def _check(
    directory: Path, trust: Trust, objects: ObjectStore | None, repository: Path | None, expected: Mapping[str, str]
) -> Verified:
    stamp, source = _stamp(directory), None
    if objects is not None and repository is not None:
        source = _Source(objects, _base_tree(objects, repository, _base_commit(stamp)))
    found = examine_bundle(
        directory, trust, objects=source, expected_parameters=expected, now_ms=time.time_ns() // 1_000_000
    )
    refusal = None if stamp else read_refusal(directory, trust)
    return Verified(directory, found.report, found.bundle_digest, found.stamp_id, refusal)


@dataclass(frozen=True)
class _Source:
    """The repository, at the base commit that the stamp names; ``tree``: that commit's, empty where it is not there."""

    objects: ObjectStore
    tree: str

    def apply(self, base_tree: str, diff: bytes) -> str:
        if base_tree != self.tree:
            found = f"the base commit's tree is {self.tree}" if self.tree else "the repository has no such base commit"
            raise Refused("BASE_TREE", found, "fetch the base commit, or get an unaltered copy of the bundle")
        return self.objects.apply(base_tree, diff)

    def snapshot_hash(self, tree: str) -> str:
        return self.objects.snapshot_hash(tree)


def _base_tree(objects: ObjectStore, repository: Path, commit: str | None) -> str:
    """Raises InputError REPOSITORY_INVALID, REPOSITORY_NOT_FOUND; Refused REPOSITORY_OWNER, OBJECTS_MALFORMED."""
    try:
        return objects.fetch(str(repository.absolute()), commit).tree if commit is not None else ""
    except InputError as error:
        if error.code == "REF_NOT_FOUND":
            return ""
        raise


def _stamp(directory: Path) -> dict[str, Any]:
    """Only hints are taken from it; the checks read it again."""
    return _object(read_member(directory, STAMP))


def _object(data: bytes | None) -> dict[str, Any]:
    try:
        value = strict_json(data or b"")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _base_commit(stamp: dict[str, Any]) -> str | None:
    """The commit to fetch before the checks."""
    source = stamp.get("source")
    return git_id(source.get("base_commit")) if isinstance(source, dict) else None


def _document(found: list[Verified], loaded: LoadedTrust, require_all: bool) -> dict[str, Any]:
    now_s = int(time.time())
    about = {
        "trust": _trust_facts(loaded, now_s), "verifier": {"id": VERIFIER_ID, "version": version("gen4")},
        "verified_at": timestamp_of(now_s), "accepted": all(one.accepted(require_all) for one in found),
    }  # fmt: skip
    bundles = [
        {
            **one.report.model_dump(mode="json", exclude_none=True, exclude={"metrics", "waivers"}),
            "directory": str(one.directory), "bundle_digest": one.bundle_digest, "stamp_id": one.stamp_id,
            "not_checked": one.not_checked, **_rejection(one.refusal),
        }
        for one in found
    ]  # fmt: skip
    return {**bundles[0], **about} if len(bundles) == 1 else {**about, "bundles": bundles}


def _rejection(refusal: Refusal | None) -> dict[str, Any]:
    if refusal is None:
        return {}
    report = refusal.report
    said = {"failed_gate": report.failed_gate, "codes": report.codes, "message": report.message} if report is not None else {}
    return {"rejection": {"signed_by": refusal.signer or "", "problem": refusal.problem, **said}}


def _trust_facts(loaded: LoadedTrust, now_s: int) -> dict[str, Any]:
    return {
        "root": loaded.root, "sha256": loaded.sha256, "version": loaded.trust.version, "age_s": loaded.age_s(now_s),
        "assurance": loaded.trust.assurance,
    }  # fmt: skip


def _print_trust(loaded: LoadedTrust) -> None:
    age = timedelta(seconds=loaded.age_s(int(time.time())))
    issued = f"root key {loaded.root}, version {loaded.trust.version}, issued {age} ago" if loaded.root else "unsigned"
    show(f"trust: sha256 {loaded.sha256}, {issued}, assurance {loaded.trust.assurance}")


def print_report(directory: Path, report: GateReport, refusal: Refusal | None = None, require_all: bool = False) -> None:
    if refusal is not None:
        _print_refusal(directory, refusal)
        return
    for item in report.checks:
        mark = "not checked" if not item.checked else "ok" if item.ok else "REFUSED"
        detail = " ".join(part for part in (item.member, item.reason) if part)
        show(f"  {item.code:<22} {mark} {detail}")
        if item.checked and not item.ok:
            if item.expected or item.actual:
                show(f"      expected {item.expected}, found {item.actual}")
            show(f"      → {item.remedy}")
        elif not item.checked and item.remedy:
            show(f"      → {item.remedy}")
    open_ones = [check.code for check in report.checks if not check.checked]
    if report.verdict == "pass" and open_ones and require_all:
        show(f"refused: {directory}: not checked: {', '.join(open_ones)}")
    else:
        show(f"{'verified' if report.verdict == 'pass' else 'refused'}: {directory}")


def _print_refusal(directory: Path, refusal: Refusal) -> None:
    if refusal.report is not None:
        codes = ", ".join(refusal.report.codes) or "no code"
        show(f"  a Rejection Report: the gate {refusal.report.failed_gate} refused this patch with {codes}")
        show(f"      {refusal.report.message}")
    show(f"      signed by {refusal.signer}" if refusal.signer else f"      not to be believed: {refusal.problem}")
    show(f"refused: {directory} is no Evidence Bundle")
