"""The policy bundle: Rego and data of ``policies/``, packed by ``opa build`` into bytes that depend on nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
import subprocess
import tarfile
import tempfile
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from schemas.canonical import digest_of, jcs_sha256, sha256_hex
from schemas.error import InfrastructureError

CREDENTIALS_REVISION = "credentials"
BUILD_TIMEOUT_S = 60


class PolicyBundle(NamedTuple):
    """``digest`` identifies the policy (``policy_digest`` everywhere); ``revision`` is what a running OPA reports of it."""

    path: Path
    digest: str
    revision: str


def policy_sources(candidate: Path | None = None) -> dict[str, bytes]:
    """What goes into the bundle, by path: Rego without its tests, the data, and the manifest that claims the roots.

    Args:
        candidate: folder of another version of ``policies/``; default: the one that this program came with.
    """
    folder = resources.files("policies") if candidate is None else candidate
    names = sorted(item.name for item in folder.iterdir())
    wanted = [name for name in names if _belongs(name)]
    return {name: (folder / name).read_bytes() for name in wanted}


def build_bundle(opa: Path, out: Path, candidate: Path | None = None) -> PolicyBundle:
    """Write the bundle to ``out`` (byte-identical for the same sources and OPA).

    Args:
        candidate: as for :func:`policy_sources`.

    Raises:
        InfrastructureError: POLICY_BUILD_FAILED, with what OPA said.
    """
    sources = policy_sources() if candidate is None else policy_sources(candidate)
    revision = jcs_sha256({name: sha256_hex(data) for name, data in sources.items()})
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gen4-policies-", dir=out.parent) as folder:
        source, made = Path(folder, "policies"), Path(folder, "bundle.tar.gz")
        source.mkdir()
        for name, data in sources.items():
            (source / name).write_bytes(data)
        argv = [str(opa.absolute()), "build", "-b", ".", "--revision", revision, "-o", str(made.absolute())]
        try:
            done = subprocess.run(
                argv, cwd=source, env=opa_environment(), capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InfrastructureError("POLICY_BUILD_FAILED", f"cannot run opa: {error}", "run `gen4 doctor`") from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[:2_000]
            raise InfrastructureError("POLICY_BUILD_FAILED", said, "run `opa check --strict` in policies/")
        os.replace(made, out)
    return load_bundle(out)


def load_bundle(path: Path) -> PolicyBundle:
    """A bundle that was built before.

    Raises:
        InfrastructureError: POLICY_BUNDLE_UNREADABLE.
    """
    try:
        data = path.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            member = archive.extractfile("/.manifest")
            revision = json.loads(member.read())["revision"] if member else ""
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise InfrastructureError("POLICY_BUNDLE_UNREADABLE", f"{path}: {error}", "run `gen4 up` to build it again") from error
    return PolicyBundle(path=path, digest=digest_of(data), revision=str(revision))


def write_credentials(folder: Path) -> str:
    """Make a token for one OPA process and the bundle that holds its digest; returns the token, which goes nowhere else."""
    token = secrets.token_urlsafe(32)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    digest = hashlib.sha256(token.encode("ascii")).hexdigest()
    _private(folder / ".manifest", {"revision": CREDENTIALS_REVISION, "roots": ["credentials"], "rego_version": 1})
    _private(folder / "data.json", {"credentials": {"token_sha256": digest}})
    return token


def opa_argv(opa: Path, bundle: PolicyBundle, credentials: Path, port: int) -> tuple[str, ...]:
    """The hardened start: loopback only, token required, policies and data closed to writing, no call to the outside.

    Args:
        credentials: folder made by :func:`write_credentials`.
    """
    return (
        str(opa), "run", "--server", "--addr", f"127.0.0.1:{port}", "--authentication", "token", "--authorization", "basic",
        "--skip-version-check", "--log-level", "error", "--log-format", "json", "--bundle", str(bundle.path),
        "--bundle", str(credentials),
    )  # fmt: skip


def opa_environment() -> dict[str, str]:
    """All that OPA gets of our environment: nothing (``opa.runtime()`` would show it to policies)."""
    return {"PATH": os.defpath, "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}


def _belongs(name: str) -> bool:
    return (name.endswith(".rego") and not name.endswith("_test.rego")) or name in ("data.json", ".manifest")


def _private(path: Path, value: object) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(value, file)
