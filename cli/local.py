"""Read access to this home's store, blobs and objects, for commands that must not believe a workflow."""

from __future__ import annotations

from dataclasses import dataclass

from activities.record.approvals import Approvals
from activities.record.blobs import BlobStore
from activities.record.chain import EventChain
from activities.record.executions import ExecutionRows
from activities.record.home import Home
from activities.record.objects import ObjectStore
from activities.record.payloads import PayloadVault
from activities.record.store import Store, TenantStore
from schemas.approval import ApprovalRequest
from schemas.error import InputError
from workers.settings import Settings


@dataclass(frozen=True)
class LocalStore:
    """The open parts of one home, bound to one tenant."""

    home: Home
    tenant_id: str
    store: TenantStore
    blobs: BlobStore
    objects: ObjectStore
    chain: EventChain
    executions: ExecutionRows

    def close(self) -> None:
        """Only a command that goes on after it needs this; the others end."""
        self.store.close()

    def pending_approvals(self) -> list[ApprovalRequest]:
        return [stored.request for stored in Approvals(self.store).pending()]

    def approval(self, approval_id: str) -> ApprovalRequest:
        found = Approvals(self.store).get(approval_id)
        if found is None:
            raise InputError("UNKNOWN_APPROVAL", f"no request {approval_id}", "list them with `gen4 approvals`")
        return found.request

    def find_approval(self, prefix: str) -> ApprovalRequest:
        """Raises InputError when none or several requests start with ``prefix``."""
        found = [stored.request for stored in Approvals(self.store).find(prefix)]
        if len(found) != 1:
            raise InputError("UNKNOWN_APPROVAL", f"{len(found)} pending requests match", "give the workflow id")
        return found[0]


def open_local(settings: Settings) -> LocalStore:
    home = Home.open(settings.home)
    store = Store.open(settings.store_address, vault=PayloadVault(home.keys)).tenant(settings.tenant)
    return LocalStore(
        home=home, tenant_id=settings.tenant, store=store, blobs=BlobStore(home.blobs, settings.tenant),
        objects=ObjectStore.open(home.objects), chain=EventChain(store), executions=ExecutionRows(store),
    )  # fmt: skip
