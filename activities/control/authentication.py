"""Who gives a command: proves it by an OIDC token, by an SSH key, or by owning the home; every refusal is an event.

Of a token only its sha256 is ever recorded.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import uuid
from pathlib import Path
from typing import Literal

from activities.control.keysets import KeySets
from activities.control.oidc import REMEDIES as TOKEN_REMEDIES
from activities.control.oidc import Claims, Issuer, Tokens, token_sha256
from activities.kernel import ssh
from activities.record.chain import EventChain
from activities.record.directory import Directory
from activities.record.store import TenantStore
from activities.record.used_tokens import UsedTokens
from schemas.canonical import jcs
from schemas.error import InputError, Refused
from schemas.event import Actor, EventDraft
from schemas.identity import LOCAL_ISSUER, REMEDIES, SSH_ISSUER, Principal, Role
from schemas.task import tenant_keys

Purpose = Literal["act", "look"]
"""act: the token is used up. look: it only says who somebody is, and may act later."""
OPERATOR_NAMESPACE = "gen4-operator"
NOBODY = Actor(principal_id="unknown", kind="engine")
"""Actor of a refusal before anybody was recognised."""
_Credential = Literal["oidc", "ssh", "local"]


class Authentication:
    """Args:
    issuers: whose tokens count; none means that no token does.
    """

    def __init__(
        self, store: TenantStore, issuers: tuple[Issuer, ...] = (), keys: KeySets | None = None, chain: EventChain | None = None
    ) -> None:
        self._tenant_id = store.tenant_id
        self._chain = chain or EventChain(store)
        self._directory = Directory(store, self._chain)
        self._used = UsedTokens(store)
        self._tokens = Tokens(issuers, store.tenant_id, keys or KeySets())

    def verify_token(self, token: str, purpose: Purpose, now_ms: int) -> Claims:
        """What a token says, if it counts.

        Raises:
            Refused: the codes of :mod:`activities.control.oidc`, and JTI_REPLAY.
            InfrastructureError: ISSUER_UNAVAILABLE.
        """
        try:
            claims = self._tokens.verify(token, now_ms)
            if purpose == "act" and not self._used.use(claims.issuer, claims.jti, claims.expires_at_ms, now_ms):
                raise Refused("JTI_REPLAY", "the token was used before", TOKEN_REMEDIES["JTI_REPLAY"])
        except Refused as refused:
            self._record(refused, "oidc", token_sha256(token), NOBODY)
            raise
        return claims

    def by_token(self, token: str, roles: tuple[Role, ...], now_ms: int, purpose: Purpose = "act") -> Principal:
        """The principal whom a token names and who holds one of ``roles`` (none given: whatever he holds).

        Raises:
            Refused: as :meth:`verify_token`; PRINCIPAL_UNKNOWN, PRINCIPAL_INACTIVE, ROLE_NOT_HELD.
            InfrastructureError: ISSUER_UNAVAILABLE.
        """
        claims = self.verify_token(token, purpose, now_ms)
        return self._admit("oidc", claims.token_sha256, claims.issuer, claims.subject, roles)

    def by_key(self, key: Path, roles: tuple[Role, ...], now_ms: int) -> Principal:
        """The principal whose SSH key signs a challenge of ours.

        Args:
            key: private key, or public key whose private half an agent holds.

        Raises:
            InputError: KEY_UNUSABLE.
            Refused: BAD_SIGNATURE, PRINCIPAL_UNKNOWN, PRINCIPAL_INACTIVE, ROLE_NOT_HELD.
        """
        public, mark = _public(key)
        challenge = jcs({"tenant_id": self._tenant_id, "at_ms": now_ms, "nonce": secrets.token_hex(16)})
        signature = ssh.sign(challenge, key, OPERATOR_NAMESPACE)
        allowed = f'signer namespaces="{OPERATOR_NAMESPACE}" {public}\n'
        if not ssh.verifies(challenge, signature, "signer", allowed, OPERATOR_NAMESPACE):
            refused = Refused("BAD_SIGNATURE", f"{key} does not sign as {mark}", "name the private key of the public one")
            self._record(refused, "ssh", _sha256(mark), NOBODY)
            raise refused
        return self._admit("ssh", _sha256(mark), SSH_ISSUER, mark, roles)

    def by_uid(self, uid: int, roles: tuple[Role, ...]) -> Principal:
        """The local operator: whoever may read the home owns it.

        Raises:
            Refused: PRINCIPAL_UNKNOWN, PRINCIPAL_INACTIVE, ROLE_NOT_HELD.
        """
        return self._admit("local", _sha256(str(uid)), LOCAL_ISSUER, str(uid), roles)

    def _admit(self, credential: _Credential, sha256: str, issuer: str, subject: str, roles: tuple[Role, ...]) -> Principal:
        found, actor = self._directory.principal_by(issuer, subject), NOBODY
        try:
            if found is None:
                raise Refused("PRINCIPAL_UNKNOWN", f"{issuer} {subject!r} is not registered", REMEDIES["PRINCIPAL_UNKNOWN"])
            actor = Actor(principal_id=found.principal_id, kind=found.kind)
            if found.status != "active":
                code = "PRINCIPAL_INACTIVE"
                raise Refused(code, f"principal {found.principal_id} is {found.status}", REMEDIES[code])
            held = self._directory.roles(found.principal_id)
            if roles and not set(roles) & set(held):
                message = f"{found.principal_id} holds {', '.join(held) or 'no role'}; this needs {' or '.join(roles)}"
                raise Refused("ROLE_NOT_HELD", message, REMEDIES["ROLE_UNBOUND"])
        except Refused as refused:
            self._record(refused, credential, sha256, actor)
            raise
        return found

    def _record(self, refused: Refused, credential: _Credential, sha256: str, actor: Actor) -> None:
        payload = {"code": refused.code, "credential": credential, "credential_sha256": sha256}
        draft = EventDraft(kind="auth.refused", idempotency_key=f"auth/{uuid.uuid4()}", payload=payload)
        self._chain.append(tenant_keys(self._tenant_id), actor, draft)


def fingerprint(public_key: str) -> str:
    """``SHA256:…`` of a public key line, as ``ssh-keygen -l`` prints it: the subject of principals of issuer ``ssh``.

    Raises:
        InputError: KEY_UNUSABLE.
    """
    try:
        blob = base64.b64decode(public_key.split()[1], validate=True)
    except (IndexError, binascii.Error, ValueError) as error:
        raise InputError("KEY_UNUSABLE", "not a public SSH key", "name a file like ~/.ssh/id_ed25519.pub") from error
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).rstrip(b"=").decode()


def _public(key: Path) -> tuple[str, str]:
    try:
        text = key.read_text("ascii", "replace") if key.suffix == ".pub" else ssh.public_key(key)
    except OSError as error:
        raise InputError("KEY_UNUSABLE", f"{key}: {error.strerror}", "name an SSH key that you may read") from error
    public = " ".join(text.split()[:2])
    return public, fingerprint(public)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
