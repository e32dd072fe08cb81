"""The signer's side: answers ``signer``, ``seal`` and ``reject``, and signs only what it found out itself (threats 5.1).

It keeps its own content: what the caller sends is checked against the hash by which it was asked for, and lies where only the
signer can write. A bundle leaves it after its own Trust Gate passed it, with the summary of that (VSA) among its statements.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from activities.evidence import in_toto, rejection, statements, vsa
from activities.evidence.content import IN_MEMORY, Content, StoredFile, lines_of
from activities.evidence.establishing import Derived, derive, establish, witness_rejection
from activities.evidence.provenance import external_parameters
from activities.evidence.remembering import Remembering
from activities.evidence.seal import Established, SealFacts, lay_out, not_written, sign_members, write_stamp
from activities.evidence.signing import Signer, StatementSigner
from activities.evidence.sources import public_repository
from activities.evidence.statements import Unsigned
from activities.evidence.trusting import encode_trust
from activities.evidence.verification import verify_bundle
from activities.evidence.witnessing import Believed, Circumstances, Recompute
from activities.kernel import dsse
from activities.kernel.channel import Channel, need
from activities.record.commits import CommitInfo
from activities.record.objects import ObjectStore
from schemas.canonical import jcs, sha256_hex
from schemas.capabilities import SEAL_BUNDLE, SealBundle, SealRejection
from schemas.error import Gen4Error, InputError, Refused
from schemas.evidence import (
    BUILDER_ID,
    PROVENANCE,
    SEPARATED_BUILDER_ID,
    STABLE_MEMBERS,
    TEST_RESULTS,
    TRAJECTORY,
    timestamp_of,
)
from schemas.gates import GateReport
from schemas.model import BlobRef
from schemas.rejection import MARKDOWN, REPORT
from schemas.stamp import Stamp2, StampCheckpoint
from schemas.task import TraceKeys
from schemas.trust import PinnedRoot, Trust
from schemas.verdict import Judgement

_AGAIN = "start the remediation again; what was recorded is kept"
_CHUNK = 1 << 20
_REMEMBERED = 256
_TREES = 16
"""Trees known to be whole here, the last ones: what they have in common with another need not be sent again."""
CONTENT_S = 60.0
"""So long a caller may take to begin with a blob or a commit, which it has at hand: there are few slots. Trees it packs first."""
_CALL = "call-"
"""Folders of calls; what a killed process left is removed at the next start."""


@dataclass(frozen=True, kw_only=True)
class SignerPorts:
    """``own_uid``: of this process; ``believed`` and ``signer`` are asked at every call, so that a rotation counts at once."""

    folder: Path
    own_uid: int
    signer: Callable[[], StatementSigner]
    believed: Callable[[], Believed]
    base_packages: Callable[[str], Mapping[str, str]]
    regression: Recompute
    gen4_version: str
    git_version: str
    now_s: Callable[[], float] = field(default=time.time)


class SignerService:
    """Handles calls on channels; several at once."""

    def __init__(self, ports: SignerPorts) -> None:
        self._ports = ports
        for leftover in ports.folder.glob(_CALL + "*"):
            _remove(leftover)
        self._objects = ObjectStore.open(ports.folder / "objects.git")
        self._repository = Remembering(self._objects)
        self._seen = _Seen()
        self._derived: dict[tuple[str, str, tuple[str, ...]], Derived] = {}
        self._lock = threading.Lock()

    def handle(self, channel: Channel, message: Any, body: IO[bytes]) -> None:
        """One call. What it raises is the caller's answer.

        Raises:
            InputError: CALL_INVALID.
            Refused: what does not hold, each with its code; see :mod:`activities.evidence.establishing`.
        """
        body.close()
        calls = {"signer": self._signer, "seal": self._seal, "reject": self._reject}
        op = message.get("op") if isinstance(message, dict) else None
        if not isinstance(op, str) or op not in calls:
            raise InputError("CALL_INVALID", f"the signer does not know the call {str(op)[:40]!r}", "run one version")
        with self._supplies(channel) as supplies:
            answer = calls[op](message, channel, supplies)
        channel.send({"result": answer})

    # --- calls -------------------------------------------------------------------------------------------------------

    def _signer(self, message: dict[str, Any], channel: Channel, supplies: _Sent) -> dict[str, Any]:
        believed = self._ports.believed()
        builders = (SEPARATED_BUILDER_ID,) if self._apart(channel) and believed.separated else ()
        signer = self._ports.signer()
        named = signer.trusted(int(self._ports.now_s()), (BUILDER_ID, *builders))
        return {
            "signer": named.model_dump(mode="json", exclude_none=True), "executors": list(believed.executors),
            "trusted_roots": [root.document for root in _pinned(signer)],
        }  # fmt: skip

    def _seal(self, message: dict[str, Any], channel: Channel, supplies: _Sent) -> dict[str, Any]:
        keys, request = _read(TraceKeys, message, "keys"), _read(SealBundle, message, "request")
        point = None if message.get("checkpoint") is None else _read(StampCheckpoint, message, "checkpoint")
        signer = self._ports.signer()  # before the time is taken: a key that is rotated meanwhile was valid then
        now_s = int(self._ports.now_s())
        circumstances = self._circumstances(keys, channel, now_s)
        found = establish(request, supplies, self._ports.believed(), circumstances, self._derive)
        facts = SealFacts(
            keys, SEAL_BUNDLE.id, SEAL_BUNDLE.version, self._ports.gen4_version, self._ports.git_version, now_s, point
        )
        stamp = write_stamp(request, found, signer, facts)
        files = sign_members(found.members, stamp, signer, found.builder_id)
        report, trust = self._verified(request, keys, files, signer, found, supplies.folder, now_s)
        made = {name: data for name, data in files.items() if name not in STABLE_MEMBERS and isinstance(data, bytes)}
        beside = self._beside(files, stamp, signer, report, trust, found, now_s)
        return {"files": _encoded(made), "attestations": _encoded(beside)}

    def _reject(self, message: dict[str, Any], channel: Channel, supplies: _Sent) -> dict[str, Any]:
        keys, request = _read(TraceKeys, message, "keys"), _read(SealRejection, message, "request")
        witness_rejection(request, supplies, self._ports.believed(), keys.tenant_id)
        objects = supplies.tree(request.source.base_tree)
        try:
            judgement = (
                None if request.judged is None else Judgement.model_validate_json(supplies.blob(request.judged.judgement))
            )
            report = rejection.report(
                request, keys, report_id=str(message.get("report_id")),
                base_snapshot_sha256=objects.snapshot_hash(request.source.base_tree), judgement=judgement,
            )  # fmt: skip
        except ValidationError as error:
            raise _bad_call("request", error) from error
        statement = rejection.statement(report)
        files = {
            REPORT: rejection.document(report), MARKDOWN: rejection.markdown(report).encode(),
            **_signed(statement, self._ports.signer()),
        }  # fmt: skip
        return {"files": _encoded(files)}

    # --- private -----------------------------------------------------------------------------------------------------

    def _derive(self, objects: ObjectStore, base_tree: str, diff: bytes, named_tests: tuple[str, ...]) -> Derived:
        """Remembered by what it follows from: the same patch is often compiled again."""
        key = (base_tree, sha256_hex(diff), named_tests)
        with self._lock:
            found = self._derived.get(key)
        if found is None:
            found = derive(objects, base_tree, diff, named_tests)
            with self._lock:
                if len(self._derived) >= _REMEMBERED:
                    del self._derived[next(iter(self._derived))]
                self._derived[key] = found
        return found

    def _apart(self, channel: Channel) -> bool:
        return channel.peer.uid not in (0, self._ports.own_uid)

    def _circumstances(self, keys: TraceKeys, channel: Channel, now_s: int) -> Circumstances:
        return Circumstances(
            tenant_id=keys.tenant_id, apart=self._apart(channel), now_ms=now_s * 1000, base_packages=self._ports.base_packages,
            regression=self._ports.regression,
        )  # fmt: skip

    def _verified(
        self, request: SealBundle, keys: TraceKeys, files: Mapping[str, Content], signer: StatementSigner, found: Established,
        folder: Path, created_s: int,
    ) -> tuple[GateReport, Trust]:  # fmt: skip
        """The Trust Gate's report on the very bytes that will leave, by a trust root that names this signer alone."""
        trust = Trust(
            version=0, issued_at=timestamp_of(created_s), expires_at=None, assurance="single_operator",
            signers=(signer.trusted(created_s, (found.builder_id,)),), trusted_roots=_pinned(signer),
            policy_digests=tuple(sorted(self._ports.believed().policy_digests)),
        )  # fmt: skip
        directory, source = folder / "bundle", request.source
        try:
            lay_out(files, directory)
        except OSError as error:
            raise not_written(error) from error
        expected = external_parameters(keys.task_id, public_repository(source.repository), source.ref).model_dump()
        now_ms = int(self._ports.now_s() * 1000)
        report = verify_bundle(directory, trust, objects=self._repository, expected_parameters=expected, now_ms=now_ms)
        if report.verdict != "pass":
            raise Refused("BUNDLE_INVALID", f"what was made does not verify: {report.why}", _AGAIN)
        return report, trust

    def _beside(
        self, files: Mapping[str, Content], stamp: Stamp2, signer: StatementSigner, report: GateReport, trust: Trust,
        found: Established, now_s: int,
    ) -> dict[str, bytes]:  # fmt: skip
        """The statements that lie beside a bundle, by file name."""
        small = {name: data for name, data in files.items() if isinstance(data, bytes)}
        chain = statements.read_chain(lines_of(files[TRAJECTORY]))
        made = [
            statements.test_result(stamp, small[TEST_RESULTS], chain),
            statements.trajectory(stamp, chain),
            vsa.summary(
                report, stamp.bundle_digest, policy_digest=stamp.policy.policy_digest,
                trust_sha256=sha256_hex(encode_trust(trust)), verifier_version=stamp.engines.gen4,
                time_verified=timestamp_of(now_s), levels=vsa.levels_of(found.builder_id, trust.assurance),
                provenance_sha256=sha256_hex(small[PROVENANCE]),
            ),
        ]  # fmt: skip
        if isinstance(signer, Signer):
            made += in_toto.metadata(stamp, small, signer.public_key)
        return {name: data for one in made for name, data in _signed(one, signer).items()}

    @contextmanager
    def _supplies(self, channel: Channel) -> Iterator[_Sent]:
        folder = Path(tempfile.mkdtemp(prefix=_CALL, dir=self._ports.folder))
        try:
            yield _Sent(channel, self._objects, folder, self._seen)
        finally:
            _remove(folder)


@dataclass(frozen=True)
class _Seen:
    """What lies whole in this store, the last ones, by ids that are hashes. ``commits``: as git has read them here."""

    trees: deque[str] = field(default_factory=lambda: deque(maxlen=_TREES))
    commits: dict[str, CommitInfo] = field(default_factory=dict)


class _Sent:
    """Content of one call, asked for once each and hashed on arrival."""

    def __init__(self, channel: Channel, objects: ObjectStore, folder: Path, seen: _Seen) -> None:
        self._channel = channel
        self._objects = objects
        self._blobs: dict[str, Content] = {}
        self._seen = seen
        self.folder = folder

    def blob(self, ref: BlobRef) -> bytes:
        found = self.content(ref)
        if not isinstance(found, bytes):
            raise Refused("CONTENT_TOO_LARGE", f"blob {ref.sha256} has {found.size} bytes", "make it smaller")
        return found

    def content(self, ref: BlobRef) -> Content:
        if ref.sha256 not in self._blobs:
            with need(self._channel, {"blob": ref.sha256}, CONTENT_S) as body:
                self._blobs[ref.sha256] = self._take(body, ref)
        return self._blobs[ref.sha256]

    def commit(self, commit: str) -> CommitInfo:
        if (found := self._seen.commits.get(commit)) is None:
            found = self._taken(commit)
            if len(self._seen.commits) >= _REMEMBERED:
                self._seen.commits.clear()
            self._seen.commits[commit] = found
        return found

    def _taken(self, commit: str) -> CommitInfo:
        with need(self._channel, {"commit": commit}, CONTENT_S) as body:
            data = body.read(_CHUNK)
        if hashlib.sha1(b"commit %d\0" % len(data) + data, usedforsecurity=False).hexdigest() != commit:
            raise _other("commit", commit)
        self._objects.take_commit(data)
        return self._objects.commit(commit)

    def tree(self, tree: str) -> ObjectStore:
        """Git hashes each object that arrives, so a tree that is whole here is the one that its id names."""
        if tree in self._seen.trees:
            return self._objects
        if not self._objects.has_tree(tree):
            with need(self._channel, {"tree": tree, "known": list(self._seen.trees)}) as body:
                self._objects.unpack(body)
            if not self._objects.has_tree(tree):
                raise _other("tree", tree)
        self._seen.trees.append(tree)
        return self._objects

    def _take(self, body: IO[bytes], ref: BlobRef) -> Content:
        if ref.size <= IN_MEMORY:
            data = body.read(IN_MEMORY + 1)
            if (sha256_hex(data), len(data)) != (ref.sha256, ref.size):
                raise _other("blob", ref.sha256)
            return data
        path = self.folder / ref.sha256
        with path.open("wb") as file:
            shutil.copyfileobj(body, file, _CHUNK)
        stored = StoredFile.of(path)
        if (stored.sha256, stored.size) != (ref.sha256, ref.size):
            raise _other("blob", ref.sha256)
        return stored


def _remove(folder: Path) -> None:
    """Of one call; a bundle in it is read-only."""
    for path in folder.iterdir():
        path.chmod(0o700)
    shutil.rmtree(folder)


def _pinned(signer: StatementSigner) -> tuple[PinnedRoot, ...]:
    document = signer.root_document
    return (PinnedRoot(sha256=sha256_hex(document.encode()), document=document),) if document else ()


def _signed(unsigned: Unsigned, signer: StatementSigner) -> dict[str, bytes]:
    """A statement's envelope; of a keyless signer also the Sigstore bundle, which alone holds the certificate."""
    if isinstance(signer, Signer):
        return {unsigned.name: unsigned.sealed(signer.signature(dsse.pae(unsigned.payload_type, unsigned.payload)))}
    signed = signer.sign_statement(unsigned.payload)
    return {unsigned.name: jcs(signed.envelope), unsigned.name.replace(".intoto.", ".sigstore."): signed.bundle}


def _encoded(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(data).decode() for name, data in files.items()}


def _read(model: Any, message: dict[str, Any], name: str) -> Any:
    try:
        return model.model_validate(message.get(name))
    except ValidationError as error:
        raise _bad_call(name, error) from error


def _bad_call(name: str, error: ValidationError) -> Gen4Error:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return InputError("CALL_INVALID", f"{name}.{where}: {first['msg']}"[:500], "run signer and worker of one version")


def _other(what: str, name: str) -> Refused:
    return Refused("CONTENT_MISMATCH", f"what was sent is not {what} {name}", _AGAIN)
