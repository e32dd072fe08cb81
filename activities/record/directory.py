"""The directory of one tenant: the tenant itself, its principals, and the roles and policies that bind them (contracts §3).

Every change is a ``config.changed`` event in the tenant's chain, in the same transaction. Ids are kept and compared byte by byte.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Table, and_, bindparam, func, select

from activities.record.chain import EventChain
from activities.record.store import TenantStore
from activities.record.tables import (
    NAMESPACE,
    POLICY_BINDING,
    PRINCIPAL,
    ROLE_BINDING,
    SCHEDULE_OWNER,
    SESSION_LEASE,
    TENANT,
)
from activities.record.upserting import insert_or_ignore
from schemas.error import InputError, Refused
from schemas.event import Actor, EventDraft
from schemas.identity import (
    REMEDIES,
    TEMPORAL_ISSUER,
    IdentityFacts,
    IdentityRefusal,
    PolicyBinding,
    Principal,
    Role,
    RoleBinding,
    SessionLease,
    Starter,
    Status,
    Tenant,
)
from schemas.task import tenant_keys

T = TypeVar("T")

ADMIN: Role = "tenant_admin"
_TENANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_PRINCIPAL_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+:/-]{0,255}\Z")


class Directory:
    """Args:
    chain: where changes are recorded; default: the tenant's own.
    """

    def __init__(self, store: TenantStore, chain: EventChain | None = None) -> None:
        self._store = store
        self._chain = chain or EventChain(store)
        self._mine = store.tenant_id

    # --- the tenant --------------------------------------------------------------------------------------------------

    def tenant(self, connection: Connection | None = None) -> Tenant | None:
        row = self._one(connection, select(TENANT).where(TENANT.c.tenant_id == self._mine))
        return None if row is None else Tenant.model_validate(dict(row._mapping))

    def put_tenant(self, tenant: Tenant, by: Actor, now_ms: int, connection: Connection | None = None) -> Tenant:
        """Insert if absent; the status of one that is there stays what it is.

        Raises:
            InputError: TENANT_INVALID.
            Refused: ID_CONFLICT for another name or currency; TENANT_MISMATCH.
        """
        self._store.require(tenant.tenant_id)
        if not _TENANT_ID.match(tenant.tenant_id):  # it names folders, and ``*`` is everybody
            raise InputError("TENANT_INVALID", f"{tenant.tenant_id!r} does not match {_TENANT_ID.pattern}", "set GEN4_TENANT")

        def run(transaction: Connection) -> Tenant:
            if self.tenant(transaction) is None:
                values = {**_trace(self._mine), **tenant.model_dump(), "created_at_ms": now_ms, "updated_at_ms": now_ms}
                if insert_or_ignore(transaction, TENANT, values):
                    self._changed(transaction, by, "tenant", self._mine, None, tenant.model_dump())
            stored = self.tenant(transaction)
            if stored is None or stored.model_copy(update={"status": tenant.status}) != tenant:
                raise Refused("ID_CONFLICT", f"tenant {self._mine} is recorded with other facts")
            return stored

        return self._join(connection, run)

    def set_tenant_status(self, status: Status, reason: str, by: Actor, now_ms: int) -> Tenant:
        """Raises:
        Refused: TENANT_INACTIVE for a tenant that is unknown or closed for good.
        """

        def run(transaction: Connection) -> Tenant:
            stored = self.tenant(transaction)
            if stored is None or stored.status == "closed":
                raise Refused("TENANT_INACTIVE", f"tenant {self._mine} is {stored.status if stored else 'unknown'}")
            if stored.status == status:
                return stored
            transaction.execute(
                TENANT.update().where(TENANT.c.tenant_id == self._mine).values(status=status, updated_at_ms=now_ms)
            )
            self._changed(
                transaction, by, "tenant", self._mine, {"status": stored.status}, {"status": status, "reason": reason}
            )
            return stored.model_copy(update={"status": status})

        return self._store.write(run)

    def bind_namespace(self, namespace: str, by: Actor, now_ms: int, connection: Connection | None = None) -> None:
        """A Temporal namespace belongs to one tenant, for good.

        Raises:
            Refused: NAMESPACE_TAKEN.
        """
        mine = select(NAMESPACE.c.namespace).where(NAMESPACE.c.namespace == namespace, NAMESPACE.c.tenant_id == self._mine)

        def run(transaction: Connection) -> None:
            if transaction.execute(mine).first() is not None:
                return
            values = {**_trace(self._mine), "namespace": namespace, "created_at_ms": now_ms}
            if insert_or_ignore(transaction, NAMESPACE, values):
                self._changed(transaction, by, "namespace", namespace, None, {"tenant_id": self._mine})
            elif transaction.execute(mine).first() is None:
                remedy = "give each tenant a namespace of its own: GEN4_NAMESPACE"
                raise Refused("NAMESPACE_TAKEN", f"namespace {namespace!r} belongs to another tenant", remedy)

        self._join(connection, run)

    # --- principals --------------------------------------------------------------------------------------------------

    def principal(self, principal_id: str, connection: Connection | None = None) -> Principal | None:
        def run(transaction: Connection) -> Principal | None:
            row = transaction.execute(_PRINCIPAL, {"tenant": self._mine, "principal": principal_id}).first()
            return None if row is None else Principal.model_validate(dict(row._mapping))

        return run(connection) if connection is not None else self._store.read(run)

    def principal_by(self, issuer: str, subject: str, connection: Connection | None = None) -> Principal | None:
        """Whom a verified credential names."""
        if "\x00" in issuer + subject:
            return None  # no database keeps it, and PostgreSQL would not even compare it
        return self._principal(connection, and_(PRINCIPAL.c.issuer == issuer, PRINCIPAL.c.subject == subject))

    def principals(self) -> list[Principal]:
        query = select(PRINCIPAL).where(PRINCIPAL.c.tenant_id == self._mine).order_by(PRINCIPAL.c.principal_id)
        rows = self._store.read(lambda connection: connection.execute(query).all())
        return [Principal.model_validate(dict(row._mapping)) for row in rows]

    def put_principal(
        self, principal: Principal, by: Actor, now_ms: int, connection: Connection | None = None
    ) -> tuple[Principal, bool]:
        """Insert if absent. Returns what is stored, and whether it is new; the status of an old one stays what it is.

        Raises:
            InputError: PRINCIPAL_INVALID.
            Refused: ID_CONFLICT when the id, or the issuer's subject, is another principal's; TENANT_MISMATCH.
        """
        self._store.require(principal.tenant_id)
        _refuse_odd(principal)

        def run(transaction: Connection) -> tuple[Principal, bool]:
            stored = self.principal(principal.principal_id, transaction)
            if stored is None:
                values = {**_trace(self._mine), **principal.model_dump(), "created_at_ms": now_ms, "updated_at_ms": now_ms}
                if insert_or_ignore(transaction, PRINCIPAL, values):
                    self._changed(transaction, by, "principal", principal.principal_id, None, principal.model_dump())
                    return principal, True
                stored = self.principal(principal.principal_id, transaction)
            if stored is None or stored.model_copy(update={"status": principal.status}) != principal:
                message = f"{principal.principal_id!r}, or its subject, is another principal's"
                raise Refused("ID_CONFLICT", message, "see `gen4 principal list`")
            return stored, False

        return self._join(connection, run)

    def set_principal_status(self, principal_id: str, status: Status, reason: str, by: Actor, now_ms: int) -> Principal:
        """Raises:
        Refused: PRINCIPAL_UNKNOWN, PRINCIPAL_INACTIVE for one that is closed, LAST_ADMIN.
        """

        def run(transaction: Connection) -> Principal:
            stored = self._known(transaction, principal_id)
            if stored.status == "closed":
                raise Refused("PRINCIPAL_INACTIVE", f"principal {principal_id} is closed for good", "register a new one")
            if stored.status == status:
                return stored
            if status != "active":
                self._refuse_last_admin(transaction, principal_id)
            this = (PRINCIPAL.c.tenant_id == self._mine) & (PRINCIPAL.c.principal_id == principal_id)
            transaction.execute(PRINCIPAL.update().where(this).values(status=status, updated_at_ms=now_ms))
            before, after = {"status": stored.status}, {"status": status, "reason": reason}
            self._changed(transaction, by, "principal", principal_id, before, after)
            return stored.model_copy(update={"status": status})

        return self._store.write(run)

    # --- roles -------------------------------------------------------------------------------------------------------

    def roles(self, principal_id: str, connection: Connection | None = None) -> tuple[Role, ...]:
        """Sorted."""
        def run(transaction: Connection) -> tuple[Role, ...]:
            found = transaction.execute(_ROLES, {"tenant": self._mine, "principal": principal_id})
            return tuple(sorted(found.scalars().all()))

        return run(connection) if connection is not None else self._store.read(run)

    def grant(self, principal_id: str, role: Role, by: Actor, now_ms: int, connection: Connection | None = None) -> RoleBinding:
        """Raises:
        Refused: PRINCIPAL_UNKNOWN.
        """

        def run(transaction: Connection) -> RoleBinding:
            self._known(transaction, principal_id)
            stored = self._binding(transaction, principal_id, role)
            if stored is None:
                made = RoleBinding(tenant_id=self._mine, principal_id=principal_id, role=role, granted_by=by.principal_id)
                values = {**_trace(self._mine), **made.model_dump(), "created_at_ms": now_ms}
                if insert_or_ignore(transaction, ROLE_BINDING, values):
                    self._changed(transaction, by, "role", principal_id, None, {"role": role})
                    return made
                stored = self._binding(transaction, principal_id, role)
            if stored is None:
                raise Refused("ID_CONFLICT", f"role {role} of {principal_id} was taken away meanwhile", "try again")
            return stored

        return self._join(connection, run)

    def revoke(self, principal_id: str, role: Role, by: Actor) -> bool:
        """False when the principal does not hold the role.

        Raises:
            Refused: PRINCIPAL_UNKNOWN, LAST_ADMIN.
        """
        this = and_(
            ROLE_BINDING.c.tenant_id == self._mine, ROLE_BINDING.c.principal_id == principal_id, ROLE_BINDING.c.role == role
        )

        def run(transaction: Connection) -> bool:
            self._known(transaction, principal_id)
            if role == ADMIN:
                self._refuse_last_admin(transaction, principal_id)
            taken = transaction.execute(ROLE_BINDING.delete().where(this)).rowcount == 1
            if taken:
                self._changed(transaction, by, "role", principal_id, {"role": role}, None)
            return taken

        return self._store.write(run)

    # --- policies ----------------------------------------------------------------------------------------------------

    def policies(self, connection: Connection | None = None) -> list[PolicyBinding]:
        query = select(POLICY_BINDING).where(POLICY_BINDING.c.tenant_id == self._mine).order_by(POLICY_BINDING.c.role)

        def run(transaction: Connection) -> list[PolicyBinding]:
            return [_policy(dict(row._mapping)) for row in transaction.execute(query).all()]

        return run(connection) if connection is not None else self._store.read(run)

    def bind_policies(
        self, policies: Sequence[PolicyBinding], by: Actor, now_ms: int, connection: Connection | None = None
    ) -> bool:
        """Make the tenant's bindings these and no others; False, and no event, when they are so already.

        Raises:
            Refused: TENANT_MISMATCH.
        """
        for policy in policies:
            self._store.require(policy.tenant_id)

        def run(transaction: Connection) -> bool:
            self._lock(transaction)
            before = {policy.policy_id: policy for policy in self.policies(transaction)}
            after = {policy.policy_id: policy for policy in policies}
            if before == after:
                return False
            for policy_id in before.keys() - after.keys():
                transaction.execute(POLICY_BINDING.delete().where(self._is_policy(policy_id)))
            for policy in after.values():
                if policy.policy_id not in before:
                    values = {**_trace(self._mine), **_policy_values(policy), "created_at_ms": now_ms, "updated_at_ms": now_ms}
                    transaction.execute(POLICY_BINDING.insert().values(**values))
                elif before[policy.policy_id] != policy:
                    change = POLICY_BINDING.update().where(self._is_policy(policy.policy_id))
                    transaction.execute(change.values(**_policy_values(policy), updated_at_ms=now_ms))
            digests = ({p.policy_digest for p in before.values()}, {p.policy_digest for p in after.values()})
            named = [{"roles": sorted(of), "policy_digests": sorted(d)} for of, d in zip((before, after), digests, strict=True)]
            self._changed(transaction, by, "policies", self._mine, named[0], named[1])
            return True

        return self._join(connection, run)

    def _is_policy(self, policy_id: str) -> ColumnElement[bool]:
        return and_(POLICY_BINDING.c.tenant_id == self._mine, POLICY_BINDING.c.policy_id == policy_id)

    # --- schedules ---------------------------------------------------------------------------------------------------

    def own_schedule(
        self, schedule_id: str, principal_id: str, by: Actor, now_ms: int, connection: Connection | None = None
    ) -> None:
        """Register on whose behalf a Temporal schedule starts workflows.

        Raises:
            Refused: ID_CONFLICT when it has another owner; PRINCIPAL_UNKNOWN.
        """

        def run(transaction: Connection) -> None:
            self._known(transaction, principal_id)
            if self.schedule_owner(schedule_id, transaction) is None:
                values = {
                    **_trace(self._mine), "schedule_id": schedule_id, "principal_id": principal_id, "created_at_ms": now_ms,
                }  # fmt: skip
                if insert_or_ignore(transaction, SCHEDULE_OWNER, values):
                    self._changed(transaction, by, "schedule", schedule_id, None, {"principal_id": principal_id})
            if self.schedule_owner(schedule_id, transaction) != principal_id:
                raise Refused("ID_CONFLICT", f"schedule {schedule_id!r} has another owner", "use a new schedule id")

        self._join(connection, run)

    def schedule_owner(self, schedule_id: str, connection: Connection | None = None) -> str | None:
        row = self._one(
            connection,
            select(SCHEDULE_OWNER.c.principal_id).where(
                SCHEDULE_OWNER.c.tenant_id == self._mine, SCHEDULE_OWNER.c.schedule_id == schedule_id
            ),
        )
        return None if row is None else str(row.principal_id)

    # --- who acts ----------------------------------------------------------------------------------------------------

    def resolve(self, starter: Starter, operator_id: str, connection: Connection | None = None) -> str | IdentityRefusal:
        """The principal id of who started a root run, or why there is none (PRINCIPAL_UNKNOWN, SCHEDULE_UNREGISTERED)."""
        if starter.kind == "operator":
            return operator_id
        if starter.kind == "schedule":
            owner = self.schedule_owner(starter.name, connection)
            code, message = "SCHEDULE_UNREGISTERED", f"schedule {starter.name[:200]!r} has no owner"
            return owner or IdentityRefusal(code, message, REMEDIES[code])
        found = self.principal_by(TEMPORAL_ISSUER, starter.name, connection)
        code, message = "PRINCIPAL_UNKNOWN", f"the server stamped {starter.name[:200]!r}, who is not registered"
        return found.principal_id if found else IdentityRefusal(code, message, REMEDIES[code])

    def facts(
        self, connection: Connection | None, principal_id: str, role: str, session_id: str | None = None
    ) -> IdentityFacts:
        """Everything that :func:`schemas.identity.judge_identity` asks, in one statement.

        Args:
            session_id: whose newest lease is wanted; None leaves the lease out.
        """
        values = {"tenant": self._mine, "principal": principal_id, "role": role, "session": session_id or ""}

        def run(transaction: Connection) -> IdentityFacts:
            return _facts(transaction.execute(_FACTS, values).first())

        return run(connection) if connection is not None else self._store.read(run)

    # -----------------------------------------------------------------------------------------------------------------

    def _join(self, connection: Connection | None, run: Callable[[Connection], T]) -> T:
        return run(connection) if connection is not None else self._store.write(run)

    def _one(self, connection: Connection | None, query: Any) -> Row[Any] | None:
        def run(transaction: Connection) -> Row[Any] | None:
            return transaction.execute(query).first()

        return run(connection) if connection is not None else self._store.read(run)

    def _principal(self, connection: Connection | None, which: ColumnElement[bool]) -> Principal | None:
        row = self._one(connection, select(PRINCIPAL).where(PRINCIPAL.c.tenant_id == self._mine, which))
        return None if row is None else Principal.model_validate(dict(row._mapping))

    def _known(self, connection: Connection, principal_id: str) -> Principal:
        found = self.principal(principal_id, connection)
        if found is None:
            code = "PRINCIPAL_UNKNOWN"
            raise Refused(code, f"no principal {principal_id!r} is registered", REMEDIES[code])
        return found

    def _binding(self, connection: Connection, principal_id: str, role: Role) -> RoleBinding | None:
        this = (ROLE_BINDING.c.principal_id == principal_id) & (ROLE_BINDING.c.role == role)
        row = self._one(connection, select(ROLE_BINDING).where(ROLE_BINDING.c.tenant_id == self._mine, this))
        return None if row is None else RoleBinding.model_validate(dict(row._mapping))

    def _refuse_last_admin(self, connection: Connection, principal_id: str) -> None:
        self._lock(connection)  # of two administrators who remove each other at once, one stays
        admins = set(
            connection.execute(
                select(PRINCIPAL.c.principal_id)
                .join(ROLE_BINDING, and_(*(ROLE_BINDING.c[key] == PRINCIPAL.c[key] for key in ("tenant_id", "principal_id"))))
                .where(PRINCIPAL.c.tenant_id == self._mine, PRINCIPAL.c.status == "active", ROLE_BINDING.c.role == ADMIN)
            ).scalars()
        )
        if admins == {principal_id}:
            message = f"{principal_id} is the only active {ADMIN}: nobody could undo it"
            raise Refused("LAST_ADMIN", message, f"grant {ADMIN} to somebody else first")

    def _lock(self, connection: Connection) -> None:
        connection.execute(select(TENANT.c.tenant_id).where(TENANT.c.tenant_id == self._mine).with_for_update())

    def _changed(self, connection: Connection, by: Actor, what: str, name: str, before: Any, after: Any) -> None:
        draft = EventDraft(
            kind="config.changed", idempotency_key=f"config/{uuid.uuid4()}",
            payload={"what": what, "name": name, "before": before, "after": after},
        )  # fmt: skip
        self._chain.append(tenant_keys(self._mine), by, draft, connection=connection)


def _facts_query() -> Any:
    tables = {"tenant": TENANT, "principal": PRINCIPAL, "binding": ROLE_BINDING, "policy": POLICY_BINDING, "lease": SESSION_LEASE}
    columns = [column.label(f"{name}__{column.name}") for name, table in tables.items() for column in table.c]
    wanted: dict[str, tuple[Table, ColumnElement[bool]]] = {
        "principal": (PRINCIPAL, PRINCIPAL.c.principal_id == bindparam("principal")),
        "binding": (
            ROLE_BINDING,
            and_(ROLE_BINDING.c.principal_id == bindparam("principal"), ROLE_BINDING.c.role == bindparam("role")),
        ),
        "policy": (POLICY_BINDING, POLICY_BINDING.c.role == bindparam("role")),
        "lease": (SESSION_LEASE, SESSION_LEASE.c.session_id == bindparam("session")),
    }
    joined: Any = TENANT
    for table, which in wanted.values():
        joined = joined.outerjoin(table, and_(table.c.tenant_id == TENANT.c.tenant_id, which))
    return (
        select(*columns)
        .select_from(joined)
        .where(TENANT.c.tenant_id == bindparam("tenant"))
        .order_by(func.coalesce(SESSION_LEASE.c.generation, 0).desc())
        .limit(1)
    )


_FACTS = _facts_query()
_PRINCIPAL = select(PRINCIPAL).where(
    PRINCIPAL.c.tenant_id == bindparam("tenant"), PRINCIPAL.c.principal_id == bindparam("principal")
)
_ROLES = select(ROLE_BINDING.c.role).where(
    ROLE_BINDING.c.tenant_id == bindparam("tenant"), ROLE_BINDING.c.principal_id == bindparam("principal")
)


def _facts(row: Row[Any] | None) -> IdentityFacts:
    if row is None:
        return IdentityFacts()
    parts: dict[str, dict[str, Any]] = {}
    for label, value in row._mapping.items():
        name, _, column = label.partition("__")
        parts.setdefault(name, {})[column] = value
    known = {name: part for name, part in parts.items() if part["tenant_id"] is not None}
    return IdentityFacts(
        tenant=Tenant.model_validate(known["tenant"]),
        principal=Principal.model_validate(known["principal"]) if "principal" in known else None,
        binding=RoleBinding.model_validate(known["binding"]) if "binding" in known else None,
        policy=_policy(known["policy"]) if "policy" in known else None,
        lease=SessionLease.model_validate(known["lease"]) if "lease" in known else None,
    )


def _policy(values: dict[str, Any]) -> PolicyBinding:
    lists = {name: tuple(json.loads(values[f"{name}_json"])) for name in ("allowed_actions", "capability_prefixes")}
    return PolicyBinding.model_validate(values | lists)


def _policy_values(policy: PolicyBinding) -> dict[str, Any]:
    lists = {f"{name}_json": json.dumps(getattr(policy, name)) for name in ("allowed_actions", "capability_prefixes")}
    return policy.model_dump(exclude={"allowed_actions", "capability_prefixes"}) | lists


def _trace(tenant_id: str) -> dict[str, Any]:
    return {**tenant_keys(tenant_id).model_dump(), "capability_id": None, "version": "1"}


def _refuse_odd(principal: Principal) -> None:
    outside = {"issuer": principal.issuer, "subject": principal.subject}
    if not _PRINCIPAL_ID.match(principal.principal_id):
        problem = f"the id {principal.principal_id!r} does not match {_PRINCIPAL_ID.pattern}"
    elif odd := [name for name, text in outside.items() if not text or text != text.strip() or not text.isprintable()]:
        problem = f"{', '.join(odd)}: empty, or with spaces around it or invisible characters"
    elif long := [name for name, text in outside.items() if len(text) > 512]:
        problem = f"{', '.join(long)}: longer than 512 characters"
    else:
        return
    raise InputError("PRINCIPAL_INVALID", problem, "write it exactly as the credential does")
