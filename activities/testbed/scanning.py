"""Scan what a change touches, in a sandbox that holds the scanners and those files; and weigh the tree.

The host never parses a file of the tree. A finding names file and line; its fingerprint is made here, from the bytes that the
object store has, so that no text of a file, which may be a secret, leaves the sandbox.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from activities.kernel.sandbox.port import RootFilesystem, SandboxBackend
from activities.record.blobs import BlobStore
from activities.record.objects import Change, ObjectStore
from activities.testbed.harness import collect, describe_end, start
from activities.testbed.protocol import HarnessBroken, parse_line
from schemas.canonical import sha256_hex
from schemas.regression import Finding, ScannedTree, ScanTree, Severity
from schemas.test_paths import is_test_path
from schemas.testing import Limits

Heartbeat = Callable[[], None]
SCANNERS = Path(__file__).resolve().parents[2] / "deploy" / "sandbox" / "scanners.txt"
_LARGEST_SOURCE = 4 * 1024 * 1024
_LARGEST_TEXT = 1024 * 1024
_MOST_FILES = 5_000
_MOST_BYTES = 256 * 1024 * 1024
"""Of all files that are scanned together: they are in memory at once."""
_MOST_GONE = 1_000
_EMPTY_BLOB = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
_UNSCANNED = "UNSCANNED"
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}$")
_GUESSES = {"Base64 High Entropy String": "low", "Hex High Entropy String": "low", "Secret Keyword": "medium"}
"""Detectors that guess; the others know what a token of theirs looks like."""


@functools.cache
def scanners_sha256() -> str:
    """Of the lock that pins the scanners: other scanners find other things."""
    return sha256_hex(SCANNERS.read_bytes())


@dataclass(frozen=True)
class Missing:
    """There are no scanners; ``why``: in the words of whoever looked for them."""

    why: str


@dataclass(frozen=True)
class _File:
    """``name``: in the sandbox, where paths of the tree are not needed; ``data``: nothing of a file that is too large."""

    name: str
    path: str
    oid: str
    size: int
    data: bytes = b""

    @property
    def is_source(self) -> bool:
        return self.name.endswith(".py") and not is_test_path(self.path)

    @property
    def is_too_large(self) -> bool:
        return self.size > (_LARGEST_SOURCE if self.is_source else _LARGEST_TEXT)


class Scanner:
    """Scans trees where sandboxes start. Safe to use from several threads."""

    def __init__(self, blobs: BlobStore, objects: ObjectStore, root: RootFilesystem, backend: SandboxBackend) -> None:
        self._blobs, self._objects, self._root, self._backend = blobs, objects, root, backend

    def scan(self, request: ScanTree, scanners: Path | Missing, heartbeat: Heartbeat) -> ScannedTree:
        """``scanners``: folder of what :data:`SCANNERS` pins.

        Raises:
            InfrastructureError: no sandbox started; then nothing was learnt.
        """
        changes = self._objects.changes(request.against, request.tree)
        emptied = {one.path for one in changes if one.status == "M" and one.new_oid == _EMPTY_BLOB}
        gone = tuple(_shown(one.path) for one in changes if one.status == "D" or one.path in emptied)[:_MOST_GONE]
        sizes = {entry.path: entry.size for entry in self._objects.entries(request.tree)}
        size = sum(size for path, size in sizes.items() if not is_test_path(path))
        wanted = [change for change in changes if change.status != "D" and change.new_mode.startswith("100")]
        files = [_named(number, change, sizes[change.path]) for number, change in enumerate(wanted)]
        seen = self._look(files, scanners, request.limits, heartbeat)
        return seen.model_copy(update={"size_bytes": size, "gone": gone})

    def _look(self, files: list[_File], scanners: Path | Missing, limits: Limits, heartbeat: Heartbeat) -> ScannedTree:
        total = sum(file.size for file in files if not file.is_too_large)
        if len(files) > _MOST_FILES or total > _MOST_BYTES:
            most = f"the {_MOST_FILES} files of {_MOST_BYTES} bytes"
            message = f"{len(files)} files of {total} bytes differ, more than {most} that are scanned"
            return ScannedTree(findings=None, message=message, files=0, size_bytes=0)
        if isinstance(scanners, Missing):
            message = f"the index does not have the scanners: {scanners.why}"
            return ScannedTree(findings=None, message=message, scanners_missing=True, files=0, size_bytes=0)
        findings, tools, message = self._look_at(files, limits, scanners, heartbeat) if files else ([], {}, "")
        if findings is None:
            return ScannedTree(findings=None, message=message, files=len(files), size_bytes=0)
        stored = self._blobs.put_json([finding.model_dump(mode="json") for finding in findings])
        return ScannedTree(findings=stored, files=len(files), size_bytes=0, tools=tools)

    def _read(self, files: Sequence[_File]) -> list[_File]:
        contents = self._objects.read_many(file.oid for file in files)
        return [dataclasses.replace(file, data=data) for file, (_, data) in zip(files, contents, strict=True)]

    def _look_at(
        self, files: list[_File], limits: Limits, scanners: Path, heartbeat: Heartbeat
    ) -> tuple[list[Finding] | None, dict[str, str], str]:
        unread = [_unscanned("bandit", file, "medium") for file in files if file.is_source and file.is_too_large]
        files = self._read([file for file in files if not file.is_too_large])
        job = {
            "python": [file.name for file in files if file.is_source],
            "texts": [file.name for file in files if file.size <= _LARGEST_TEXT and b"\0" not in file.data],
        }
        with start(
            self._backend, self._root, mode="scan", job=job, limits=limits, environment=scanners,
            write_archive=lambda out: _archive(files, out),
        ) as process:  # fmt: skip
            lines = collect(process, heartbeat)
            completed = process.finish()
        try:
            documents = [parse_line(line) for line in lines]
            if not documents or documents[-1]["kind"] != "end":
                return None, {}, describe_end(completed)
            by_name = {file.name: file for file in files}
            findings = [_finding(document, by_name) for document in documents[:-1]]
            end = documents[-1]
            versions = {tool: str(end[tool]["version"]) for tool in ("bandit", "detect-secrets")}
            # Python that does not parse does not run either; a file that a detector fails on may have been made so.
            unread += [_unscanned("bandit", by_name[name], "low") for name in end["bandit"]["skipped"]]
            unread += [_unscanned("detect-secrets", by_name[name], "medium") for name in end["detect-secrets"]["skipped"]]
        except (HarnessBroken, KeyError, TypeError, ValueError) as error:
            return None, {}, f"the scanners' report cannot be read: {error}"
        return sorted([*findings, *unread], key=lambda one: (one.path, one.line, one.tool, one.rule)), versions, ""


def _named(number: int, change: Change, size: int) -> _File:
    suffix = _SUFFIX.search(change.path)
    return _File(f"{number}{suffix.group().lower() if suffix else ''}", change.path, change.new_oid, size)


def _finding(document: dict[str, Any], files: dict[str, _File]) -> Finding:
    file, rule, tool = files[document["file"]], str(document["rule"]), document["tool"]
    lines = file.data.splitlines()
    number = int(document["line"])
    text = lines[number - 1].strip() if 0 < number <= len(lines) else b""
    content = f"{tool}\0{rule}\0".encode() + text
    severity: Severity = document["severity"] if tool == "bandit" else _severity(rule, file.path)
    return Finding(
        tool=tool, rule=rule, severity=severity, path=_shown(file.path), line=number, message=str(document["message"]),
        fingerprint=sha256_hex(os.fsencode(file.path) + b"\0" + content), content=sha256_hex(content),
    )  # fmt: skip


def _unscanned(tool: Literal["bandit", "detect-secrets"], file: _File, severity: Severity) -> Finding:
    """That nobody looked at a file is a finding, too."""
    content = f"{tool}\0{_UNSCANNED}\0".encode()
    return Finding(
        tool=tool, rule=_UNSCANNED, severity=severity, path=_shown(file.path), line=1, message="not scanned",
        fingerprint=sha256_hex(os.fsencode(file.path) + b"\0" + content), content=sha256_hex(content + file.oid.encode()),
    )  # fmt: skip


def _shown(path: str) -> str:
    """A path of git's is bytes; what leaves here is text."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _severity(rule: str, path: str) -> Severity:
    """A test's password is a test's password; a real token is one anywhere."""
    guess = _GUESSES.get(rule)
    if guess is None:
        return "high"
    return "low" if guess == "low" or is_test_path(path) else "medium"


def _archive(files: list[_File], out: BinaryIO) -> None:
    with tarfile.open(fileobj=out, mode="w") as archive:
        for file in files:
            member = tarfile.TarInfo(file.name)
            member.size = len(file.data)
            archive.addfile(member, io.BytesIO(file.data))

