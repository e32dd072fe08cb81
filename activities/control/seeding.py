"""What every fabric of a tenant needs to know before it runs anything: tenant, namespace, local operator, roles, itself.

Called at each start of a worker. It writes only what is missing or changed: what an administrator suspended or took away
stays so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, get_args

from pydantic import Field, TypeAdapter
from sqlalchemy import Connection

from activities.control.approvers import OPERATOR
from activities.record.directory import Directory
from activities.record.store import TenantStore
from schemas.event import Actor
from schemas.identity import LOCAL_ISSUER, PolicyBinding, Principal, PrincipalKind, Role, Tenant
from schemas.model import Door

ENGINE = Actor(principal_id="gen4", kind="engine")
"""The fabric itself: it seeds, and its schedules run in its name."""
OPERATOR_ROLES: tuple[Role, ...] = ("operator", "release_captain", "tenant_admin", "auditor")
ENGINE_ROLES: tuple[Role, ...] = ("operator",)


class RolePolicy(Door):
    """What a role may do at most, as ``roles`` in policies/data.json says."""

    allowed_actions: tuple[str, ...]
    capability_prefixes: tuple[str, ...]
    path_tier_max: str
    autonomy_tier: str
    max_memory_mb: Annotated[int, Field(ge=0)]
    max_tokens: Annotated[int, Field(ge=0)]


_ROLES: TypeAdapter[dict[Role, RolePolicy]] = TypeAdapter(dict[Role, RolePolicy])


def packaged_roles() -> dict[Role, RolePolicy]:
    """Of the policy that this program came with; every role has an entry."""
    data = json.loads((resources.files("policies") / "data.json").read_bytes())
    roles = _ROLES.validate_python(data["roles"])
    if missing := set(get_args(Role)) - roles.keys():
        raise ValueError(f"policies/data.json names no policy for {sorted(missing)}")
    return roles


def ensure_tenant(
    store: TenantStore, namespace: str, roles: Mapping[Role, RolePolicy], policy_digest: str, uid: int, now_ms: int
) -> str:
    """Returns the local operator's principal id.

    Args:
        uid: whose home this is.

    Raises:
        Refused: NAMESPACE_TAKEN when the namespace is another tenant's.
    """
    directory, tenant_id = Directory(store), store.tenant_id
    policies = [
        PolicyBinding(policy_id=role, tenant_id=tenant_id, role=role, policy_digest=policy_digest, **policy.model_dump())
        for role, policy in roles.items()
    ]

    def run(connection: Connection) -> str:
        operator_id = ensure_people(connection, directory, tenant_id, uid, now_ms)
        directory.bind_namespace(namespace, ENGINE, now_ms, connection)
        directory.bind_policies(policies, ENGINE, now_ms, connection)
        return operator_id

    return store.write(run)


def ensure_people(connection: Connection, directory: Directory, tenant_id: str, uid: int, now_ms: int) -> str:
    """The tenant, its local operator and the fabric's own principal; each gets its roles when it is made, and only then.

    Returns the local operator's principal id: ``operator``, or ``operator-<uid>`` where that is another user's already.
    """
    directory.put_tenant(Tenant(tenant_id=tenant_id, name=tenant_id), ENGINE, now_ms, connection)

    def ensure(principal_id: str, kind: PrincipalKind, subject: str, roles: tuple[Role, ...]) -> str:
        found = directory.principal_by(LOCAL_ISSUER, subject, connection)
        if found is not None:
            return found.principal_id
        made = Principal(principal_id=principal_id, tenant_id=tenant_id, kind=kind, issuer=LOCAL_ISSUER, subject=subject)
        directory.put_principal(made, ENGINE, now_ms, connection)
        for role in roles:
            directory.grant(principal_id, role, ENGINE, now_ms, connection)
        return principal_id

    ensure(ENGINE.principal_id, "engine", ENGINE.principal_id, ENGINE_ROLES)
    taken = directory.principal(OPERATOR, connection)
    mine = OPERATOR if taken is None or taken.subject == str(uid) else f"{OPERATOR}-{uid}"
    return ensure(mine, "human", str(uid), OPERATOR_ROLES)
