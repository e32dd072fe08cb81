"""The signing keys of a home: made, rotated, revoked, each change a new version of its trust file.

A crash between two steps leaves a signer whose bundles verify: a new key is trusted before it signs, an old one until it is gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from activities.evidence.signing import SIGNER_KEY, Signer, load_signer
from activities.evidence.trusting import ROOT_KEY, TrustStore, extended
from activities.kernel.signing_keys import encode_new, hint_of, load_or_create, pem_of, public_key
from activities.record.home import Home, private_folder
from activities.record.key_files import sync_folder, write_once
from schemas.error import InputError
from schemas.evidence import Timestamp, timestamp_of
from schemas.model import Payload
from schemas.trust import Trust, Trusted

Assurance = Literal["single_operator", "separated"]
_NEW_KEY = "signer.new.pem"


class ListedKey(Payload):
    """One signer of the trust file. ``signs``: it is the one that signs now."""

    profile: Literal["key", "keyless"]
    hint: str | None
    issuer: str | None = None
    identity: str
    builder_ids: tuple[str, ...]
    valid_from: Timestamp
    valid_until: Timestamp | None = None
    revoked_at: Timestamp | None = None
    kept: tuple[str, ...] = ()
    signs: bool


@dataclass(frozen=True)
class KeyRing:
    """Keys of the embedded signer. ``root_key``: where the root's private key lies, when it is not in the home; ``name``: how a
    trust file names a key that signs, from some second on."""

    home: Home
    root_key: Path | None = None
    name: Callable[[Signer, int], Trusted] = Signer.trusted

    def create(self, now_s: int) -> Trust:
        """The first signing key. Raises InputError KEY_EXISTS."""
        if (self.home.signer / SIGNER_KEY).exists():
            raise InputError("KEY_EXISTS", "this home has a signing key", "replace it with `gen4 keys rotate`")
        self._trust.root()  # before a key is made that nobody could name
        return self._add(load_signer(private_folder(self.home.signer)), now_s)

    def rotate(self, now_s: int) -> tuple[str, str]:
        """Hints of the key that signed until now, which is destroyed, and of the one that signs from now on.

        Bundles of the old key stay valid: they were signed while it was.
        """
        current, fresh = self.home.signer / SIGNER_KEY, self.home.signer / _NEW_KEY
        if not current.exists():
            raise InputError("KEY_MISSING", "this home has no signing key yet", "make one with `gen4 keys new`")
        self._trust.root()
        old = load_signer(self.home.signer)
        write_once(fresh, encode_new(), 0o600)  # one that a killed rotation left is used
        new = Signer(load_or_create(fresh))
        self._add(new, now_s)
        os.replace(fresh, current)
        sync_folder(self.home.signer)
        self._trust.change(lambda trust: _changed(trust, old.hint, {"valid_until": timestamp_of(now_s + 1)}), now_s)
        return old.hint, new.hint

    def revoke(self, name: str, kept: tuple[str, ...], now_s: int) -> Trusted:
        """From now on no bundle of the signer is valid but those that are ``kept``, and those proven to be older.

        Args:
            name: hint of a key, or identity of a keyless signer.
            kept: digests of stamps.

        Raises:
            InputError: KEY_UNKNOWN, KEY_REVOKED.
        """
        found = [one for one in self.trust().signers if _name_of(one) == name]
        if not found:
            raise InputError("KEY_UNKNOWN", f"no signer is called {name!r}", "list them with `gen4 keys list`")
        if found[0].revoked_at is not None:
            raise InputError("KEY_REVOKED", f"{name} was revoked at {found[0].revoked_at}", "a revocation is never taken back")
        change = {"revoked_at": timestamp_of(now_s), "kept": tuple(sorted(set(kept)))}
        trust = self._trust.change(lambda trust: _changed(trust, name, change), now_s)
        return next(one for one in trust.signers if _name_of(one) == name)

    def listed(self) -> list[ListedKey]:
        signing = self._signing_hint()
        return [
            ListedKey(
                signs=one.hint is not None and one.hint == signing and one.revoked_at is None,
                **one.model_dump(include=set(ListedKey.model_fields)),
            )
            for one in self.trust().signers
        ]

    def move_root(self, target: Path, now_s: int) -> str:
        """A new root key in ``target``, out of the home; what the old one said is said again. The new root's fingerprint.

        The same again completes what a crash ended.

        Raises:
            InputError: ROOT_KEY_PLACE when there is a file already.
        """
        if not target.is_absolute() or (target.exists() and not self._is_coming(target)):
            raise InputError("ROOT_KEY_PLACE", f"{target} is no new file by its absolute path", "name a file that does not exist")
        in_force = self._trust.in_force()
        if in_force and not (target.exists() and hint_of(load_or_create(target).public_key()) == in_force):
            self._trust.root()  # whoever moves it has the one in force
        write_once(target, encode_new(), 0o600)
        root = load_or_create(target)
        self._trust.renew(lambda trust: trust, now_s, root)
        (self.home.keys / ROOT_KEY).unlink(missing_ok=True)
        return hint_of(root.public_key())

    def _is_coming(self, target: Path) -> bool:
        """Whether it holds the key of a move that a crash ended: named already, while the old one is, or lies here still."""
        roots = self._trust.roots()
        try:
            named = pem_of(load_or_create(target).public_key()) in roots
        except InputError:
            return False
        return named and (len(roots) > 1 or (self.home.keys / ROOT_KEY).exists())

    def wanted(self) -> list[str]:
        """What the last start wanted the trust file to name besides; only the root key can."""
        trust, wanted = self.trust(), self._trust.wanted()
        now = set(_facts(trust))
        return [fact for fact in _facts(extended(trust, wanted)) if fact not in now] if wanted is not None else []

    def issue(
        self, policy_digests: tuple[str, ...], now_s: int, assurance: Assurance | None = None, *, wanted: bool = False
    ) -> Trust:
        """The trust file anew, with a full lifetime, with further policies, and with what it demands of builders.

        Args:
            wanted: also name what the last start wanted; whoever has the root key has looked at :meth:`wanted`.
        """
        more = self._trust.wanted() if wanted else None

        def extend(trust: Trust) -> Trust:
            trust = extended(trust, more) if more is not None else trust
            policies = tuple(sorted({*trust.policy_digests, *policy_digests}))
            return trust.model_copy(update={"policy_digests": policies, "assurance": assurance or trust.assurance})

        self.trust()  # there is one
        issued = self._trust.renew(extend, now_s)
        if wanted:
            self._trust.forget_wanted()
        return issued

    def trust(self) -> Trust:
        """Raises InputError TRUST_MISSING."""
        trust = self._trust.current()
        if trust is None:
            raise InputError("TRUST_MISSING", "this home trusts nobody yet", "run `gen4 keys new` or `gen4 up`")
        return trust

    @property
    def _trust(self) -> TrustStore:
        return TrustStore(self.home.keys, self.root_key)

    def _add(self, signer: Signer, now_s: int) -> Trust:
        named = self.name(signer, now_s)
        return self._trust.change(
            lambda trust: trust if any(one.hint == signer.hint for one in trust.signers) else _with(trust, named), now_s
        )

    def _signing_hint(self) -> str:
        return load_signer(self.home.signer).hint if (self.home.signer / SIGNER_KEY).exists() else ""


def adopt_key(home: Home) -> None:
    """The signing key of a release whose signer had no folder of its own goes there; what it signed stays valid."""
    former, own = home.keys / SIGNER_KEY, private_folder(home.signer) / SIGNER_KEY
    if former.exists() and not own.exists():
        os.replace(former, own)
        sync_folder(home.keys)
        sync_folder(home.signer)


def _facts(trust: Trust) -> list[str]:
    """Everything that a start can add, one line each."""
    signers = [
        f"signer {_name_of(one)} ({one.issuer or one.profile}) for {', '.join(one.builder_ids)}, "
        f"proof of time {one.require}, trusted root {one.trusted_root_sha256 or 'none'}"
        for one in trust.signers
    ]
    executors = [f"executor {hint_of(key)}" for key in map(public_key, trust.executors) if key is not None]
    return [
        *signers, *executors, *(f"policy {digest}" for digest in trust.policy_digests),
        *(f"trusted root {root.sha256}" for root in trust.trusted_roots),
    ]  # fmt: skip


def _name_of(signer: Trusted) -> str:
    return signer.hint or "" if signer.profile == "key" else signer.identity


def _changed(trust: Trust, name: str, change: Mapping[str, object]) -> Trust:
    signers = tuple(one.model_copy(update=dict(change)) if _name_of(one) == name else one for one in trust.signers)
    return trust.model_copy(update={"signers": signers})


def _with(trust: Trust, signer: Trusted) -> Trust:
    return trust.model_copy(update={"signers": (*trust.signers, signer)})
