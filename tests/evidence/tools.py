"""Other people's verifiers, as they come from their registries: found, made or installed once, and kept in GEN4_CACHE."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.toolchain import cache_directory

HERE = Path(__file__).resolve().parent / "interop"
_FILES = ("package.json", "package-lock.json", "verify.mjs")


@dataclass(frozen=True)
class Verdict:
    ok: bool
    said: str


def run(*argv: str | Path, cwd: Path | None = None) -> Verdict:
    """A verifier's own verdict: its exit code, and what it said. It gets no home, so it knows nothing but its arguments."""
    done = subprocess.run(
        [str(part) for part in argv], cwd=cwd, capture_output=True, text=True, check=False, timeout=60,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", "TUF_ROOT": "/nonexistent"},
    )  # fmt: skip
    return Verdict(done.returncode == 0, done.stdout + done.stderr)


@dataclass(frozen=True)
class JavaScript:
    """``@sigstore/verify``: one process judges many cases."""

    folder: Path

    def verify(self, *cases: dict[str, Any]) -> list[dict[str, Any]]:
        done = subprocess.run(
            ["node", str(self.folder / "verify.mjs")], input=json.dumps(cases, default=str), capture_output=True, text=True,
            check=True, timeout=60,
        )  # fmt: skip
        verdicts: list[dict[str, Any]] = json.loads(done.stdout)
        return verdicts


def javascript() -> JavaScript:
    """Installed by the hashes of the lock file; a changed lock file is another folder."""
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in _FILES)).hexdigest()
    folder = cache_directory() / "interop" / digest[:16]
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            for name in _FILES:
                shutil.copyfile(HERE / name, folder / name)
            # The packages declare a newer Node than Debian's; they run on it.
            argv = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--engine-strict=false"]
            subprocess.run(argv, cwd=folder, check=True, capture_output=True, timeout=300)
            (folder / "done").touch()
    return JavaScript(folder)
