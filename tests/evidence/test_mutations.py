"""No altered bundle is ever accepted, and each is refused by the check that is there for it."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities.evidence.verification import verify_bundle
from tests.evidence.mutations import GROUPS, MEMBERS, NOW_MS, Mutation
from tests.evidence.workshop import Workshop

SEED = 20_260_921
Group = Callable[[Workshop, random.Random], Iterator[Mutation]]


@pytest.fixture(scope="session")
def corpus(workshop: Workshop) -> dict[Group, list[Mutation]]:
    return {group: list(group(workshop, random.Random(SEED))) for group in GROUPS}


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is one."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="gen4-mutations-", dir=shared if shared.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


def accepted_or_misjudged(workshop: Workshop, mutation: Mutation, folder: Path) -> str | None:
    folder.mkdir()
    for name, data in mutation.files.items():
        (folder / name).write_bytes(data)
    if mutation.disturb is not None:
        mutation.disturb(folder)
    report = verify_bundle(folder, mutation.trust or workshop.trust, now_ms=mutation.now_ms)
    if report.verdict != "fail":
        return f"{mutation.name}: accepted"
    first = next((check for check in report.checks if check.checked and not check.ok), None)
    if first is None or first.code not in mutation.codes or mutation.reason not in ("", first.reason):
        return f"{mutation.name}: {first.code + ' ' + first.reason if first else 'unchecked'}, not {sorted(mutation.codes)}"
    return None


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_every_altered_bundle_is_refused_by_its_check(
    workshop: Workshop, corpus: dict[Group, list[Mutation]], group: Group, memory: Path
) -> None:
    found = []
    for number, mutation in enumerate(corpus[group]):
        if wrong := accepted_or_misjudged(workshop, mutation, memory / str(number)):
            found.append(wrong)
        shutil.rmtree(memory / str(number))
    assert found == []


def test_the_corpus_has_thousands_of_different_bundles(corpus: dict[Group, list[Mutation]]) -> None:
    assert len({(group.__name__, one.name) for group, mutations in corpus.items() for one in mutations}) >= 3_500


@settings(max_examples=250, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_change_of_one_byte_is_refused(
    workshop: Workshop, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(MEMBERS))
    good = workshop.files[name]
    at, byte = data.draw(st.integers(0, len(good) - 1)), bytes([data.draw(st.integers(0, 255))])
    replaced, inserted, removed = good[:at] + byte + good[at + 1 :], good[:at] + byte + good[at:], good[:at] + good[at + 1 :]
    changed = data.draw(st.sampled_from([replaced, inserted, removed]))
    if changed == good:
        return
    folder = tmp_path_factory.mktemp("byte")
    for other, content in workshop.files.items():
        (folder / other).write_bytes(changed if other == name else content)
    assert verify_bundle(folder, workshop.trust, now_ms=NOW_MS).verdict == "fail"
