"""Taking checkpoints is a capability of the signing pool, behind the gate like everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from activities.evidence.activities import CheckpointActivities
from activities.evidence.checkpointing import load_checkpoint_signer
from activities.kernel.acting import Acting
from activities.record.chain import EventChain
from activities.record.sink import Sink
from activities.record.store import Store
from schemas.capabilities import TAKE_CHECKPOINT
from schemas.checkpoint import TakeCheckpoint
from schemas.error import InfrastructureError, Refused
from schemas.event import EventDraft
from tests.record.templates import new_sqlite


def test_it_needs_the_gate(tmp_path: Path) -> None:
    store = Store.open(new_sqlite(tmp_path / "store.db"))
    signing = CheckpointActivities(store.tenant("local"), load_checkpoint_signer(tmp_path))
    assert TAKE_CHECKPOINT.pool == "signing"
    with pytest.raises(Refused, match="UNGATED"):
        signing.take_checkpoint(TakeCheckpoint())
    store.close()


def test_an_attempt_that_comes_again_takes_no_second_one(tmp_path: Path, admitted: Acting) -> None:
    store = Store.open(new_sqlite(tmp_path / "store.db"))
    chain = EventChain(store.tenant("local"))
    chain.append(admitted.keys, admitted.actor, EventDraft(kind="task.started", idempotency_key="k", payload={}))
    signing = CheckpointActivities(store.tenant("local"), load_checkpoint_signer(tmp_path), Sink(tmp_path / "outside"))
    first = signing.take_checkpoint(TakeCheckpoint())
    assert (first.number, first.sessions) == (1, 1) and signing.take_checkpoint(TakeCheckpoint()) == first
    store.close()


def test_a_sink_that_is_not_there_fails_and_is_made_good_later(tmp_path: Path, admitted: Acting) -> None:
    store = Store.open(new_sqlite(tmp_path / "store.db"))
    chain = EventChain(store.tenant("local"))
    chain.append(admitted.keys, admitted.actor, EventDraft(kind="task.started", idempotency_key="k", payload={}))
    sink = Sink(tmp_path / "mount" / "outside")
    signing = CheckpointActivities(store.tenant("local"), load_checkpoint_signer(tmp_path), sink)
    with pytest.raises(InfrastructureError, match="CHECKPOINT_SINK"):
        signing.take_checkpoint(TakeCheckpoint())
    (tmp_path / "mount").mkdir()
    assert signing.take_checkpoint(TakeCheckpoint()).number == 1 and len(sink.notes()) == 1
    store.close()
