"""One tenant's rows beside another's: kept apart by PostgreSQL itself, and by every statement that a repository sends."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Connection, text

from activities.record.approvals import Approvals
from activities.record.chain import EventChain
from activities.record.cursors import Cursors
from activities.record.effects import Effects
from activities.record.store import Store, TenantStore
from activities.record.tables import METADATA
from schemas.error import Refused
from schemas.event import EventDraft
from tests.record.conftest import ACTOR, KEYS, on_postgresql
from tests.record.postgres import OWNER, SUPERUSER, Postgres
from tests.record.test_rows import OTHER, Call, request

pytestmark = on_postgresql

SWITCH = (
    "INSERT INTO kill_switch (scope, target, tenant_id, trace_id, session_id, version, active, epoch, reason, changed_by,"
    " created_at_ms, updated_at_ms) VALUES ('everything', '*', '{0}', 't', 's', '1', true, 1, 'why', 'who', 0, 0)"
)


@pytest.fixture
def filled(store: Store) -> Store:
    """Rows of two tenants."""
    for keys in (KEYS, OTHER):
        tenant = store.tenant(keys.tenant_id)
        EventChain(tenant).append(keys, ACTOR, EventDraft(kind="task.started", idempotency_key="k", payload={}))
        Effects(tenant).begin(Call(effect_key=f"e-{keys.tenant_id}", keys=keys), "forge.deliver")
        Cursors(tenant).save(keys, "k", {"of": keys.tenant_id})
    Approvals(store.tenant("acme")).put(request(), KEYS)
    return store


def tenants_in(connection: Connection, table: str) -> set[str]:
    return set(connection.exec_driver_sql(f"SELECT tenant_id FROM {table}").scalars())  # noqa: S608


def test_every_table_is_behind_row_level_security(store: Store, url: str, postgres: Postgres) -> None:
    database = url.split("@/")[1].split("?")[0]
    rows = postgres.administer(
        "SELECT relname, relrowsecurity AND relforcerowsecurity FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace", database,
    )  # fmt: skip
    assert {str(name) for name, forced in rows if forced} == set(METADATA.tables)
    assert {str(name) for name, forced in rows if not forced} == {"alembic_version", "tenant_role"}


@pytest.mark.parametrize("table", ["event", "event_payload", "effect", "cursor", "approval"])
def test_raw_sql_of_one_tenant_sees_and_changes_no_row_of_another(filled: Store, table: str) -> None:
    acme, other = filled.tenant("acme"), filled.tenant("other")
    assert acme.read(lambda connection: tenants_in(connection, table)) == {"acme"}
    assert acme.write(lambda connection: tenants_in(connection, table)) == {"acme"}
    assert other.read(lambda connection: tenants_in(connection, table)) <= {"other"}
    stolen = f"UPDATE {table} SET tenant_id = 'acme' WHERE tenant_id = 'other'"  # noqa: S608
    assert acme.write(lambda connection: connection.exec_driver_sql(stolen).rowcount) == 0
    removed = f"DELETE FROM {table} WHERE tenant_id = 'other'"  # noqa: S608
    assert acme.write(lambda connection: connection.exec_driver_sql(removed).rowcount) == 0
    with pytest.raises(Refused, match=r"STORE_DENIED.*row-level security"):
        changed = """(jsonb_populate_record(t, '{"tenant_id": "other"}')).*"""
        given = f"INSERT INTO {table} SELECT {changed} FROM {table} AS t"  # noqa: S608
        acme.write(lambda connection: connection.exec_driver_sql(given))


def test_a_tenant_cannot_be_given_away(filled: Store) -> None:
    with pytest.raises(Refused, match=r"STORE_DENIED.*row-level security"):
        filled.tenant("acme").write(lambda connection: connection.exec_driver_sql("UPDATE cursor SET tenant_id = 'other'"))


def test_who_says_no_tenant_sees_nothing(filled: Store, url: str, postgres: Postgres) -> None:
    with postgres.connect(OWNER, url.split("@/")[1].split("?")[0]) as connection:
        for table in METADATA.tables:
            assert connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (0,)  # noqa: S608


def test_a_write_does_not_act_as_the_tenant_of_the_write_before(filled: Store) -> None:
    """Also within one group, whose writes share a connection and a transaction."""
    from tests.record.test_grouping import Held

    held = Held(str(filled._database.writer.url.render_as_string().replace("+psycopg", "")))
    order = ["acme", "other", "acme", "*", "other"]
    futures = []
    for tenant_id in order:
        tenant = TenantStore(held.store, tenant_id)
        queued = held.store._jobs.qsize()
        futures.append(held._pool.submit(tenant.write, lambda connection: tenants_in(connection, "cursor")))
        while held.store._jobs.qsize() == queued:
            pass
    held.go()
    assert [future.result(10) for future in futures] == [{"acme"}, {"other"}, {"acme"}, {"acme", "other"}, {"other"}]
    assert held.sizes == [1, 5]
    held.store.close()


@pytest.fixture
def bound(filled: Store, url: str, postgres: Postgres) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Somebody with a login role of tenant acme, and a client of his own."""
    role = postgres.bound_role(url, "acme")
    with postgres.connect(role, url.split("@/")[1].split("?")[0]) as connection:
        yield connection


@pytest.mark.parametrize(
    "attempt",
    [
        "SET gen4.tenant = 'other'", "SELECT set_config('gen4.tenant', '*', false)", "SET row_security = off", "SET ROLE gen4",
        "RESET SESSION AUTHORIZATION", "SET SESSION AUTHORIZATION gen4", "SET search_path = 'pg_temp'",
        "CREATE TEMP TABLE tenant_role AS SELECT session_user::text AS role_name, 'other' AS tenant_id",
        "CREATE FUNCTION pg_temp.gen4_tenant() RETURNS text LANGUAGE sql AS $$ SELECT 'other' $$",
        "INSERT INTO tenant_role VALUES ('x', 'other')", "UPDATE tenant_role SET tenant_id = 'other'",
        "SELECT * FROM tenant_role", "ALTER TABLE cursor DISABLE ROW LEVEL SECURITY", "DROP POLICY gen4_own ON cursor",
        "ALTER TABLE event DISABLE TRIGGER ALL", "SET session_replication_role = replica", "TRUNCATE event",
    ],
)  # fmt: skip
def test_a_bound_role_stays_its_tenant_whatever_it_sets(bound: psycopg.Connection[tuple[object, ...]], attempt: str) -> None:
    try:
        bound.execute(attempt.encode())
    except psycopg.Error:
        pass  # refused at once; or allowed, and without effect
    try:
        seen = bound.execute(b"SELECT DISTINCT tenant_id FROM public.cursor").fetchall()
    except psycopg.Error as error:
        assert "row-level security" in str(error)  # what "row_security = off" asks for: an error instead of a filter
        return
    assert seen == [("acme",)]
    assert bound.execute(b"DELETE FROM public.cursor WHERE tenant_id = 'other'").rowcount == 0


def test_a_store_opened_by_a_bound_role_is_its_tenant_s(filled: Store, url: str, postgres: Postgres) -> None:
    role = postgres.bound_role(url, "acme")
    store = Store.open(url.replace(f"//{OWNER}@", f"//{role}@"))
    assert Cursors(store.tenant("acme")).load("k") == {"of": "acme"}
    assert Cursors(store.tenant("other")).load("k") is None
    assert store.read(lambda connection: tenants_in(connection, "event")) == {"acme"}  # also for administration
    with pytest.raises(Refused, match=r"STORE_DENIED.*row-level security"):
        EventChain(store.tenant("other")).append(OTHER, ACTOR, EventDraft(kind="task.started", idempotency_key="x", payload={}))
    store.close()


def test_the_switch_for_everything_is_seen_by_all_and_set_by_administrators(filled: Store, url: str, postgres: Postgres) -> None:
    role = postgres.bound_role(url, "acme")
    bound = Store.open(url.replace(f"//{OWNER}@", f"//{role}@"))
    with pytest.raises(Refused, match=r"STORE_DENIED.*row-level security"):
        bound.tenant("acme").write(lambda connection: connection.exec_driver_sql(SWITCH.format("*")))
    filled.tenant("acme").write(lambda connection: connection.exec_driver_sql(SWITCH.format("*")))
    filled.tenant("other").write(lambda connection: connection.exec_driver_sql(SWITCH.format("other")))
    assert bound.tenant("acme").read(lambda connection: tenants_in(connection, "kill_switch")) == {"*"}
    assert filled.tenant("other").read(lambda connection: tenants_in(connection, "kill_switch")) == {"*", "other"}
    off = text("UPDATE kill_switch SET active = false WHERE tenant_id = '*'")
    assert bound.tenant("acme").write(lambda connection: connection.execute(off).rowcount) == 0
    assert filled.tenant("other").write(lambda connection: connection.execute(off).rowcount) == 1
    bound.close()


@pytest.mark.parametrize("options", ["SUPERUSER", "BYPASSRLS", f"IN ROLE {SUPERUSER}"])
def test_a_role_that_no_row_level_security_binds_is_refused(url: str, postgres: Postgres, options: str) -> None:
    role = postgres.role(f"r{uuid.uuid4().hex[:12]}", options)
    with pytest.raises(Refused, match="STORE_ROLE_UNSAFE"):
        Store.open(url.replace(f"//{OWNER}@", f"//{role}@"))
