"""The trust file: what a verifier believes, signed by a root key that may lie elsewhere (threats 1.5).

1. The file is the DSSE envelope of a trust/2, signed by the root key that the caller names, or that lies beside it. While the
   root is being changed two lie beside it, and either counts: a crash in the middle leaves a file that is believed.
2. It has not expired, and its version is not lower than the last that this machine saw of the same root key.
3. A trust/1 of an earlier release has no signature. It is read only where no root key is known.
"""

from __future__ import annotations

import fcntl
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from activities.kernel import dsse
from activities.kernel.signing_keys import hint_of, load_or_create, pem_of, public_key
from activities.record.key_files import replace
from schemas.canonical import StrictJsonError, jcs, sha256_hex, strict_json
from schemas.error import InputError
from schemas.evidence import milliseconds_of, timestamp_of
from schemas.statement import Envelope
from schemas.trust import TRUST_TYPE, PinnedRoot, Trust, Trusted, TrustRoot, Wanted, from_trust_1

TRUST_FILE = "trust.json"
ROOT_KEY = "root.pem"
ROOT_PUBLIC = "root.pub"
SEEN_FILE = "trust-seen.json"
WANTED_FILE = "trust-wanted.json"
LIFETIME_S = 365 * 86_400
"""A trust file is issued anew, with a higher version, at a start in the second half of this time."""
_LIMIT = 4 * 1024 * 1024
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
Document = TypeVar("Document", TrustRoot, Envelope, Trust, Wanted)
_ASK_OPERATOR = "name with --trust the trust.json of the fabric that sealed the bundle"
_ASK_ROOT = "name with --root-key the root's public key, obtained from the operator"


@dataclass(frozen=True)
class LoadedTrust:
    """``root``: fingerprint of the key that signed it; empty for an unsigned trust/1."""

    trust: Trust
    root: str
    sha256: str

    def age_s(self, now_s: int) -> int:
        return max(0, now_s - milliseconds_of(self.trust.issued_at) // 1000)


def load_trust(path: Path, *, root: Path | None = None, seen: Path | None = None, now_s: int | None = None) -> Trust:
    """What the trust file at ``path`` says; see :func:`read_trust`."""
    return read_trust(path, root=root, seen=seen, now_s=now_s).trust


def read_trust(path: Path, *, root: Path | None = None, seen: Path | None = None, now_s: int | None = None) -> LoadedTrust:
    """The trust file at ``path`` and who signed it; never looks anywhere but where it is told.

    Args:
        root: PEM file with the root's public key, or with several; default: ``root.pub`` beside ``path``.
        seen: file that remembers the highest version of each root key, made on first use; None: versions are not compared.
        now_s: UTC seconds; default: the clock.

    Raises:
        InputError: TRUST_INVALID, TRUST_ROOT_UNKNOWN, TRUST_EXPIRED, TRUST_ROLLBACK.
    """
    data = _read(path, "trust file")
    try:
        document = strict_json(data)
    except StrictJsonError as error:
        raise _invalid(f"{path} is not strict JSON: {error}") from error
    beside = path.with_name(ROOT_PUBLIC)
    root = root or (beside if beside.exists() else None)
    if isinstance(document, dict) and document.get("schema_version") == "trust/1":
        if root is not None:
            raise InputError("TRUST_ROLLBACK", f"{path} is unsigned, but its root key is known", _ASK_OPERATOR)
        return LoadedTrust(from_trust_1(_parse(TrustRoot, data, path)), "", sha256_hex(data))
    envelope = _parse(Envelope, data, path)
    if root is None:
        raise InputError("TRUST_ROOT_UNKNOWN", f"no root key is known for {path}", _ASK_ROOT)
    payload, key = _payload(envelope, _root_keys(root), path)
    trust = _parse(Trust, payload, path)
    now_s = int(time.time()) if now_s is None else now_s
    if trust.expires_at is not None and now_s * 1000 >= milliseconds_of(trust.expires_at):
        raise InputError("TRUST_EXPIRED", f"{path} expired at {trust.expires_at}", "get the current one from the operator")
    if seen is not None:
        _refuse_rollback(trust.version, hint_of(key), path, seen)
    return LoadedTrust(trust, hint_of(key), sha256_hex(data))


def write_trust(path: Path, trust: Trust, root: ec.EllipticCurvePrivateKey) -> None:
    replace(path, jcs(dsse.sign(root, TRUST_TYPE, encode_trust(trust))) + b"\n", 0o644)


def encode_trust(trust: Trust) -> bytes:
    return jcs(trust.model_dump(mode="json", exclude_none=True))


class TrustStore:
    """The trust file of one home, with the right to issue it: the root key lies beside it, or in a file named by the operator."""

    def __init__(self, keys: Path, root_key: Path | None = None) -> None:
        self.path = keys / TRUST_FILE
        self._keys = keys
        self._root_key = root_key

    def current(self) -> Trust | None:
        """What is in force here; an expired one too, so that it can be issued anew."""
        return load_trust(self.path, now_s=0) if self.path.exists() else None

    def change(self, change: Callable[[Trust], Trust], now_s: int) -> Trust:
        """Issue what ``change`` makes of the trust file in force, if that is something else or half of its time is over.

        Raises:
            InputError: ROOT_KEY_AWAY when the root key is needed and not here, ROOT_KEY_OTHER when it is not the one in force.
        """
        with self._alone():
            old = self.current() or _empty()
            wanted = change(old)
            left_s = milliseconds_of(old.expires_at) // 1000 - now_s if old.expires_at is not None else 0
            if wanted == old and (left_s > LIFETIME_S // 2 or (left_s > 0 and not self._root_path.exists())):
                return old
            return self._issue(wanted, self.root(), now_s)

    def renew(self, change: Callable[[Trust], Trust], now_s: int, root: ec.EllipticCurvePrivateKey | None = None) -> Trust:
        """Issue what ``change`` makes of the trust file in force, with a full lifetime, even if that is the same.

        Args:
            root: the key that is the root from now on; default: the one in force. Raises as :meth:`change` without it.
        """
        with self._alone():
            return self._issue(change(self.current() or _empty()), root or self.root(), now_s)

    def _issue(self, trust: Trust, root: ec.EllipticCurvePrivateKey, now_s: int) -> Trust:
        """Sign ``trust`` as the next version."""
        issued = trust.model_copy(
            update={
                "version": trust.version + 1, "issued_at": timestamp_of(now_s), "expires_at": timestamp_of(now_s + LIFETIME_S),
            }
        )  # fmt: skip
        mine, known = pem_of(root.public_key()), self.roots()
        if mine not in known:
            self._publish(*known, mine)
        write_trust(self.path, issued, root)
        if {*known} != {mine}:
            self._publish(mine)
        return issued

    def roots(self) -> list[str]:
        """PEM of the keys of which one signed the trust file: one, or two after a crash while the root was changed."""
        public = self._keys / ROOT_PUBLIC
        return [pem_of(key) for key in _root_keys(public)] if public.exists() else []

    def _publish(self, *roots: str) -> None:
        replace(self._keys / ROOT_PUBLIC, "".join(roots).encode(), 0o644)

    def in_force(self) -> str:
        """Fingerprint of the key that signed the trust file; empty where there is none, or an unsigned one."""
        return read_trust(self.path, now_s=0).root if self.path.exists() else ""

    def wanted(self) -> Wanted | None:
        """What the last start wanted it to name besides, in vain."""
        path = self._keys / WANTED_FILE
        return _parse(Wanted, _read(path, "what is wanted"), path) if path.exists() else None

    def forget_wanted(self) -> None:
        (self._keys / WANTED_FILE).unlink(missing_ok=True)

    @property
    def _root_path(self) -> Path:
        return self._root_key or self._keys / ROOT_KEY

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Of two processes that change it at once, the second sees what the first made."""
        with (self._keys / ".trust.json.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def root(self) -> ec.EllipticCurvePrivateKey:
        """The root key; made here where none was ever used."""
        path = self._root_path
        if not path.exists() and (self.roots() or self._root_key is not None):
            raise self._away(path)
        root, in_force, named = load_or_create(path), self.in_force(), self.roots()
        if hint_of(root.public_key()) == in_force or (not in_force and named in ([], [pem_of(root.public_key())])):
            return root
        if self._root_key is None:
            raise self._away(path)  # what a crash left here while the root was changed
        raise InputError("ROOT_KEY_OTHER", f"{path} is not the root key in force", f"its fingerprint is {in_force or 'lost'}")

    def _away(self, path: Path) -> InputError:
        message = f"the trust file has to change, and its root key is not in {path}"
        return InputError("ROOT_KEY_AWAY", message, "name it with --root-key FILE")


def ensure_trust(
    keys: Path, signer: Trusted, policy_digests: tuple[str, ...], now_s: int, executors: tuple[str, ...] = (),
    trusted_roots: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """Make the trust file of this home name all these; a trust/1 becomes a trust/2.

    What it lists already stays, revocations too: older bundles go on verifying, revoked keys stay revoked.
    """

    wanted = Wanted(signer=signer, policy_digests=policy_digests, executors=executors, trusted_roots=trusted_roots)
    store = TrustStore(keys)
    try:
        store.change(lambda trust: extended(trust, wanted), now_s)
    except InputError as error:
        if error.code != "ROOT_KEY_AWAY":
            raise
        replace(keys / WANTED_FILE, jcs(wanted), 0o600)
        remedy = "see in `gen4 keys list` what is wanted; `gen4 keys issue --wanted --root-key FILE` signs it; then start again"
        raise InputError(error.code, error.message, remedy) from error
    store.forget_wanted()
    return store.path


def extended(trust: Trust, wanted: Wanted) -> Trust:
    """``trust``, and what is wanted besides; nothing that it says is taken back."""
    roots = {*(root.document for root in trust.trusted_roots), *wanted.trusted_roots}
    return trust.model_copy(
        update={
            "signers": _with(trust.signers, wanted.signer),
            "policy_digests": tuple(sorted({*trust.policy_digests, *wanted.policy_digests})),
            "executors": tuple(sorted({*trust.executors, *wanted.executors})),
            "trusted_roots": tuple(PinnedRoot(sha256=sha256_hex(text.encode()), document=text) for text in sorted(roots)),
        }
    )


def same_signer(one: Trusted, other: Trusted) -> bool:
    """The same key; or the same identity, certified by the same authority."""
    if one.profile == "key" or other.profile == "key":
        return one.hint is not None and one.hint == other.hint
    facts = [(signer.identity, signer.issuer, signer.trusted_root_sha256) for signer in (one, other)]
    return facts[0] == facts[1]


def _with(signers: tuple[Trusted, ...], signer: Trusted) -> tuple[Trusted, ...]:
    known = [one for one in signers if same_signer(one, signer)]
    if not known:
        return (*signers, signer.model_copy(update=_revocation(signers, signer)))
    # What it signed without a proof of time stays valid, so ``require`` is what it was at first.
    now = {
        "builder_ids": tuple(sorted({*known[0].builder_ids, *signer.builder_ids})),
        "trusted_root_sha256": signer.trusted_root_sha256 or known[0].trusted_root_sha256,
    }
    return tuple(one.model_copy(update=now) if one is known[0] else one for one in signers)


def _revocation(signers: tuple[Trusted, ...], signer: Trusted) -> dict[str, str]:
    """A revoked identity stays revoked when another trusted root, or an older one again, certifies it."""
    revoked = [
        one.revoked_at for one in signers
        if one.profile == signer.profile == "keyless" and one.identity == signer.identity and one.revoked_at is not None
    ]  # fmt: skip
    return {"revoked_at": min(revoked)} if revoked else {}


def _empty() -> Trust:
    issued = timestamp_of(0)
    return Trust(version=0, issued_at=issued, expires_at=None, assurance="single_operator", signers=(), policy_digests=())


def _payload(
    envelope: Envelope, keys: Sequence[ec.EllipticCurvePublicKey], path: Path
) -> tuple[bytes, ec.EllipticCurvePublicKey]:
    """What is signed, and the key that signed it."""
    try:
        payload, signature = (dsse.decode_base64(text) for text in (envelope.payload, envelope.signatures[0].sig))
    except ValueError as error:
        raise _invalid(f"{path}: {error}") from error
    for key in keys if envelope.payloadType == TRUST_TYPE else ():
        if dsse.verify(key, TRUST_TYPE, payload, signature):
            return payload, key
    raise _invalid(f"{path} is not signed by root key {' or '.join(map(hint_of, keys))}")


def _root_keys(path: Path) -> list[ec.EllipticCurvePublicKey]:
    text = _read(path, "root key").decode(errors="replace")
    keys = [public_key(block) for block in _PEM.findall(text) or [text]]
    found = [key for key in keys if key is not None]
    if len(found) < len(keys):
        raise InputError("TRUST_ROOT_UNKNOWN", f"{path} is not a PEM public key of ECDSA P-256", _ASK_ROOT)
    return found


def _refuse_rollback(version: int, fingerprint: str, path: Path, seen: Path) -> None:
    try:
        versions = json.loads(seen.read_bytes())
        last = versions.get(fingerprint, 0)
        if not isinstance(last, int):
            raise ValueError("a version is no number")
    except FileNotFoundError:
        versions, last = {}, 0
    except (OSError, ValueError, AttributeError) as error:
        raise _invalid(f"{seen}, which remembers versions, cannot be read: {error}") from error
    if version < last:
        raise InputError("TRUST_ROLLBACK", f"{path} is version {version}; version {last} was seen here already", _ASK_OPERATOR)
    if version > last:
        replace(seen, jcs({**versions, fingerprint: version}), 0o600)


def _parse(model: type[Document], data: bytes, path: Path) -> Document:
    try:
        strict_json(data)
        return model.model_validate_json(data)
    except (StrictJsonError, ValidationError) as error:
        raise _invalid(f"{path} is not a trust file: {error}") from error


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise _invalid(f"cannot read {what} {path}: {error.strerror}") from error
    if len(data) > _LIMIT:
        raise _invalid(f"{what} {path} is larger than {_LIMIT} bytes")
    return data


def _invalid(message: str) -> InputError:
    return InputError("TRUST_INVALID", message, _ASK_OPERATOR)
