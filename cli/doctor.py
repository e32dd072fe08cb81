"""``gen4 doctor``: every tool, backend and limit with version, source and, if something is missing, what to do."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import typer
from temporalio.service import __version__ as sdk_version

from activities.evidence.trusting import TrustStore, same_signer
from activities.kernel.channel import call, connect
from activities.kernel.sandbox.backends import BACKENDS, probed
from activities.kernel.sandbox.port import RootFilesystem
from activities.kernel.sandbox.rootfs import RootFilesystems
from activities.record.home import Home
from cli.fabric import Json
from cli.output import emit, show
from schemas.error import Gen4Error
from schemas.testing import SandboxFacts
from workers import fabric
from workers.settings import Settings, read_settings
from workers.toolchain import locate

State = Literal["ok", "missing", "note"]

_ANSWER_S = 30.0
"""An executor that was just started looks at its sandbox first."""
MARKS: dict[State, str] = {"ok": "✓", "missing": "✗", "note": "·"}


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``remedy`` says what to do; empty when nothing has to be done."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def register(app: typer.Typer) -> None:
    @app.command()
    def doctor(as_json: Json = False) -> None:
        """Say what this machine has, where it comes from, and what to do about what is missing.

        Exit code 0: a remediation can run here; 3: it cannot, and the report says what to do.
        """
        findings = list(examine(read_settings()))
        if as_json:
            emit({"ok": runnable(findings), "findings": [asdict(finding) for finding in findings]})
        else:
            for finding in findings:
                show(f"{MARKS[finding.state]} {finding.name:<14} {finding.detail}")
                if finding.remedy:
                    show(f"{'':<17}→ {finding.remedy}")
        raise typer.Exit(0 if runnable(findings) else 3)


def runnable(findings: list[Finding]) -> bool:
    """Everything is there; of the sandbox backends one is enough."""
    backends = [finding for finding in findings if finding.name in BACKENDS]
    others = [finding for finding in findings if finding.name not in BACKENDS]
    return all(finding.state != "missing" for finding in others) and any(finding.state == "ok" for finding in backends)


def examine(settings: Settings) -> Iterator[Finding]:
    yield Finding("python", "ok", f"{sys.version.split()[0]} ({sys.executable})")
    yield Finding("temporalio", "ok", f"SDK {sdk_version}")
    yield _account()
    yield from _tools()
    yield from _programs()
    yield from _home(settings)
    yield from _executor(settings) if settings.executor_socket is not None else _sandbox(settings)
    yield from _signer(settings)
    yield from _fabric(settings)
    yield Finding(
        "assurance", "note", "single_operator: requester, signer and approver are one user; the embedded server has no "
        "authorizer, so whoever reaches its loopback port can start, signal and reset (approvals need a signature all the same)",
    )  # fmt: skip


def _account() -> Finding:
    try:
        return Finding("user", "ok", f"{pwd.getpwuid(os.geteuid()).pw_name} (uid {os.geteuid()})")
    except KeyError:
        remedy = "run as a user that has one: ssh-keygen, which makes and uses the keys, works for no other"
        return Finding("user", "missing", f"uid {os.geteuid()} has no account on this machine", remedy)


def _tools() -> Iterator[Finding]:
    for name in ("temporal", "opa"):
        try:
            tool = locate(name, make=False)
            yield Finding(name, "ok", f"{tool.version} from {tool.source}: {tool.path} (sha256 {tool.sha256[:12]}…)")
        except Gen4Error as error:
            yield Finding(name, "missing", error.message, error.remedy)


def _programs() -> Iterator[Finding]:
    for program, argv, package in (
        ("git", ["git", "--version"], "git"), ("ssh-keygen", None, "openssh-client"),
    ):  # fmt: skip
        path = shutil.which(program)
        if path is None:
            yield Finding(program, "missing", "not on PATH", f"apt-get install {package}")
            continue
        version = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip() if argv else ""
        yield Finding(program, "ok", f"{version} ({path})".strip())


def _home(settings: Settings) -> Iterator[Finding]:
    try:
        yield Finding("home", "ok", f"{Home.open(settings.home).root} (mode 0700, own user)")
    except Gen4Error as error:
        yield Finding("home", "missing", error.message, error.remedy)
    roots = os.pathsep.join(str(root) for root in settings.repository_roots)
    yield Finding("repositories", "note", f"local ones under {roots}; hosts: {', '.join(settings.repository_hosts) or 'none'}")


def _signer(settings: Settings) -> Iterator[Finding]:
    """A token that names another identity than the trust file would sign bundles that nobody here believes."""
    if settings.signer_socket is not None or settings.identity_token_file is None or settings.sigstore_config is None:
        return
    from activities.evidence.keyless_signing import KeylessSigner  # Sigstore takes half a second to import

    try:
        named = KeylessSigner(settings.sigstore_config, settings.identity_token_file, settings.signing_identity).trusted(now_s=0)
        trust = TrustStore(Home.open(settings.home).keys).current()
    except Gen4Error as error:
        yield _failed("signer", error)
        return
    who = f"{named.identity}, by {named.issuer}"
    known = [one for one in trust.signers if same_signer(one, named)] if trust is not None else []
    if any(one.revoked_at is not None for one in known):
        yield Finding("signer", "missing", f"{who}: revoked in the trust file", "sign with another identity")
    elif trust is not None and not known:
        remedy = "`gen4 down`, then `gen4 up` names it; or put a token of the identity there that is named"
        yield Finding("signer", "missing", f"{who}: not named in the trust file", remedy)
    else:
        yield Finding("signer", "ok", f"keyless: {who}{'' if known else ', named at the first start'}")


def _executor(settings: Settings) -> Iterator[Finding]:
    """An executor of the operator's: sandboxes are its matter, so it is asked."""
    try:
        channel = connect(settings.executor_path)
        try:
            channel.wait_at_most(_ANSWER_S)
            owner = channel.peer.uid
            answer, _ = call(channel, {"facts": {}}, supply=lambda wanted: b"")
        finally:
            channel.close()
    except Gen4Error as error:
        yield _failed("executor", error)
        return
    apart = f"uid {owner}, apart from ours" if owner != os.geteuid() else "our own uid, which isolates nothing"
    yield Finding("executor", "ok", f"at {settings.executor_path}: {apart}; base {answer['root_digest'][:19]}…")
    facts = SandboxFacts.model_validate(answer["sandbox"])
    limits = ", ".join(f"{limit} by {how}" for limit, how in sorted(facts.enforcement.items()))
    yield Finding(facts.backend, "ok", f"{facts.version}, in the executor; limits: {limits}")


def _sandbox(settings: Settings) -> Iterator[Finding]:
    try:
        roots = RootFilesystems(settings.cache)
        root = roots.current() if roots.present() or roots.imports() else None
        if root is None:
            yield Finding("rootfs", "missing", "no root filesystem of the sandbox has been made", "make setup")
        else:
            yield Finding("rootfs", "ok", f"{root.digest[:19]}… ({root.path})")
    except (Gen4Error, OSError) as error:
        root = None
        yield _failed("rootfs", error)
    for name in BACKENDS:
        yield _backend(name, root)


def _backend(name: str, root: RootFilesystem | None) -> Finding:
    """Without a root filesystem it can only be said that the backend is there."""
    try:
        backend = BACKENDS[name]()
        facts = backend.facts()
        bad = [probe for probe in probed(backend, root) if not probe.ok] if root else []
    except Gen4Error as error:
        return _failed(name, error)
    if bad:
        failed = "; ".join(f"probe {probe.name} failed: {probe.detail}" for probe in bad)
        return Finding(name, "missing", failed, "use another backend")
    limits = ", ".join(f"{limit} by {how}" for limit, how in sorted(facts.enforcement.items()))
    return Finding(name, "ok", f"{facts.version}; limits: {limits}" + ("" if root else "; not probed"))


def _failed(name: str, error: Gen4Error | OSError) -> Finding:
    if isinstance(error, Gen4Error):
        return Finding(name, "missing", error.message, error.remedy)
    return Finding(name, "missing", str(error), "point GEN4_CACHE at a folder of your own with mode 0700")


def _fabric(settings: Settings) -> Iterator[Finding]:
    try:
        state = fabric.running(Home(settings.home))
    except Gen4Error:
        return
    yield Finding(
        "fabric",
        "note",
        f"running at {state.temporal_address}, UI {state.ui_url}" if state else "not running",
        "" if state else "gen4 up",
    )
