"""``gen4 keys``: the signing keys of this home and the trust file that names them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from activities.evidence.key_ring import Assurance, KeyRing
from activities.evidence.reading import read_member
from activities.evidence.signing import Signer
from activities.evidence.trusting import ROOT_PUBLIC, TRUST_FILE, read_trust
from activities.record.store import now_ms
from cli.digests import digest
from cli.fabric import Json
from cli.local import LocalStore, open_local
from cli.operator import SshKey, TokenFile, open_to_look, operator_of
from cli.output import emit, show
from schemas.canonical import digest_of
from schemas.error import InputError
from schemas.event import Actor, EventDraft
from schemas.evidence import STAMP
from schemas.task import tenant_keys
from schemas.trust import Trust
from workers.settings import Settings, read_settings

RootKey = Annotated[
    Path | None,
    typer.Option(
        "--root-key", metavar="FILE", resolve_path=True, help="The root's private key, where it is not in this home."
    ),
]  # fmt: skip


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Signing keys, and who is trusted.", rich_markup_mode="markdown")
    app.add_typer(group, name="keys")
    group.command(name="list")(list_keys)
    for command in (new, rotate, revoke, issue):
        group.command()(command)


def new(
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", resolve_path=True, help="Make a new root key in FILE instead, to be kept elsewhere, and use it."
        ),
    ] = None,
    root_key: RootKey = None, token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Make the first signing key of this home; `gen4 up` does it too.

    With --root the trust file is signed by a new root key that does not stay in the home: whoever changes whom this home
    trusts then needs it (--root-key FILE). Give `root.pub` to whoever verifies.

    Example: `gen4 keys new --root /media/safe/root.pem`
    """
    if root is None:
        _refuse_without_key(read_settings())
    local, ring, actor = _opened(root_key, token_file, ssh_key)
    now_s = now_ms() // 1000
    if root is not None:
        fingerprint, public = ring.move_root(root, now_s), local.home.keys / ROOT_PUBLIC
        _record(local, actor, "key.rotated", {"purpose": "root", "hint": fingerprint})
        document: dict[str, Any] = {"root": fingerprint, "root_key": str(root), "root_public": str(public)}
        emit(document) if as_json else show(f"root key {fingerprint} in {root}; its public key: {public}")
    else:
        ring.create(now_s)
        (made,) = [key for key in ring.listed() if key.signs]
        _record(local, actor, "key.created", {"purpose": "signing", "hint": made.hint})
        emit(made) if as_json else show(f"{made.hint} signs from now on")


def list_keys(as_json: Json = False) -> None:
    """Every signer that this home trusts, and its trust file.

    Example: `gen4 keys list --json`
    """
    settings = read_settings()
    local = open_to_look(settings)
    own = not _elsewhere(settings)
    listed = [key.model_copy(update={"signs": key.signs and own}) for key in KeyRing(local.home).listed()]
    wanted = KeyRing(local.home).wanted()
    loaded = read_trust(local.home.keys / TRUST_FILE, now_s=0)
    trust = loaded.trust
    facts = {
        "version": trust.version, "issued_at": trust.issued_at, "expires_at": trust.expires_at, "sha256": loaded.sha256,
        "root": loaded.root, "assurance": trust.assurance, "policy_digests": list(trust.policy_digests),
    }  # fmt: skip
    if as_json:
        keys = [key.model_dump(mode="json", exclude_none=True) for key in listed]
        emit({"trust": {name: value for name, value in facts.items() if value is not None}, "keys": keys, "wanted": wanted})
        return
    show(f"trust file: version {trust.version}, sha256:{loaded.sha256}")
    show(f"root key:   {loaded.root or 'none (made by an earlier release)'}, until {trust.expires_at or 'ever'}")
    for key in listed:
        ended = f"revoked at {key.revoked_at}" if key.revoked_at else f"until {key.valid_until}" if key.valid_until else ""
        state = "signs now" if key.signs else ended or "valid"
        show(f"{key.hint or key.issuer}  {key.profile}  {key.identity}  from {key.valid_from}  {state}")
    for fact in wanted:
        show(f"wanted by the last start, not trusted: {fact}")


def rotate(
    root_key: RootKey = None, token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False
) -> None:
    """Sign with a new key from now on. The old private key is destroyed; bundles that it signed stay valid.

    A running signer uses the new key at its next call.

    Example: `gen4 keys rotate`
    """
    _refuse_without_key(read_settings())
    local, ring, actor = _opened(root_key, token_file, ssh_key)
    old, fresh = ring.rotate(now_ms() // 1000)
    _record(local, actor, "key.rotated", {"purpose": "signing", "hint": fresh, "replaces": old})
    document = {"hint": fresh, "replaces": old}
    emit(document) if as_json else show(f"{fresh} signs from now on; bundles of {old} stay valid")


def revoke(
    name: Annotated[str, typer.Argument(help="Hint of a key, or identity of a keyless signer, as `gen4 keys list` has it.")],
    reason: Annotated[str, typer.Option(help="Why; recorded with who did it.")],
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR|sha256:…", help="A bundle that stays valid all the same, or the sha256 of its stamp.json (repeatable)."
        ),
    ] = None,
    root_key: RootKey = None, token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False,
) -> None:  # fmt: skip
    """No bundle of this signer is valid any more, but those that are proven to be older. It is never taken back.

    Rotate first when it is the key that signs now. Verifiers learn it from the new trust file.

    Example: `gen4 keys revoke HINT --reason "laptop was stolen" --keep evidence`
    """
    local, ring, actor = _opened(root_key, token_file, ssh_key)
    kept = tuple(_stamp_digest(text) for text in keep or ())
    signs = any(key.hint == name and key.signs for key in ring.listed())
    revoked = ring.revoke(name, kept, now_ms() // 1000)
    _record(local, actor, "key.revoked", {"purpose": "signing", "hint": name, "reason": reason, "kept": list(kept)})
    if as_json:
        emit({"hint": name, "revoked_at": revoked.revoked_at, "kept": list(revoked.kept), "signs": signs})
        return
    show(f"{name} is revoked; {len(revoked.kept)} of its bundles stay valid")
    if signs:
        show("it is the key that signs: nothing that it seals verifies until you run `gen4 keys rotate`")


def issue(
    policy: Annotated[
        list[str] | None, typer.Option(metavar="sha256:…", help="Digest of a further policy to trust (repeatable).")
    ] = None,
    assurance: Annotated[
        Assurance | None,
        typer.Option(help="What it demands: `separated` refuses bundles of a signer that shared a user with the worker."),
    ] = None,
    wanted: Annotated[
        bool, typer.Option("--wanted", help="Also trust what the last `gen4 up` wanted, as `gen4 keys list` shows it.")
    ] = False,
    root_key: RootKey = None, token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Sign the trust file anew, as its next version and for another year.

    `gen4 up` does it by itself as long as the root key is in the home. Otherwise it writes down what it wants: a new key or
    identity, executor, policy or trusted root. Whoever could change the home could write that, so read it before you sign it.

    Example: `gen4 keys issue --policy sha256:… --root-key /media/safe/root.pem`
    """
    local, ring, actor = _opened(root_key, token_file, ssh_key)
    policies = tuple(digest(text) for text in policy or ())
    added = ring.wanted() if wanted else []
    trust = ring.issue(policies, now_ms() // 1000, assurance, wanted=wanted)
    _record(local, actor, "config.changed", _issued(trust, policies) | ({"wanted": added} if added else {}))
    document = {"version": trust.version, "expires_at": trust.expires_at, **({"wanted": added} if wanted else {})}
    emit(document) if as_json else show(f"trust file: version {trust.version}, until {trust.expires_at}")


def _opened(root_key: Path | None, token_file: Path | None, ssh_key: Path | None) -> tuple[LocalStore, KeyRing, Actor]:
    settings = read_settings()
    local = open_local(settings)
    actor = operator_of(local, settings, "operator", "tenant_admin", token_file=token_file, ssh_key=ssh_key)
    if settings.proof_of_time == "none" or settings.sigstore_config is None:
        return local, KeyRing(local.home, root_key), actor
    config, proof = settings.sigstore_config, settings.proof_of_time
    return local, KeyRing(local.home, root_key, lambda key, now_s: _timed(key, config, proof).trusted(now_s)), actor


def _timed(key: Signer, config: Path, proof: Literal["timestamp", "log"]) -> Signer:
    from activities.evidence.timed_signing import timed  # Sigstore takes half a second to import

    return timed(key, config, proof)


def _elsewhere(settings: Settings) -> bool:
    """Whoever signs, it is not the key in this home."""
    return bool(settings.signer_socket or settings.signing_key or settings.identity_token_file)


def _refuse_without_key(settings: Settings) -> None:
    if _elsewhere(settings):
        raise InputError(
            "KEY_ELSEWHERE", "the signing key of this fabric is not in its home",
            "change it where it is (see docs/guides/signing.md), then run `gen4 up`, which names the new one in the trust file",
        )  # fmt: skip


def _issued(trust: Trust, policies: tuple[str, ...]) -> dict[str, Any]:
    return {"what": "trust", "version": trust.version, "policy_digests": list(policies), "assurance": trust.assurance}


def _record(
    local: LocalStore, actor: Actor, kind: Literal["key.created", "key.rotated", "key.revoked", "config.changed"],
    payload: dict[str, Any],
) -> None:  # fmt: skip
    keys = tenant_keys(local.tenant_id)
    subject = payload.get("hint") or f"{payload.get('what')}/{payload.get('version')}"
    draft = EventDraft(
        kind=kind, task_id=keys.task_id, idempotency_key=f"{kind}/{payload.get('purpose', '')}/{subject}", payload=payload
    )
    local.chain.append(keys, actor, draft)


def _stamp_digest(text: str) -> str:
    """Of the stamp in the folder of a bundle; or what was given, if that is no folder."""
    folder = Path(text)
    if not folder.is_dir():
        return digest(text)
    stamp = read_member(folder, STAMP)
    if stamp is None:
        raise InputError("BUNDLE_NOT_FOUND", f"{folder} has no readable {STAMP}", "name the folder of an Evidence Bundle")
    return digest_of(stamp)
