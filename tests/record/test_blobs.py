from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.record.blobs import BlobStore
from schemas.error import InfrastructureError, InputError, Refused

texts = st.text(st.characters(codec="utf-8"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e9, 1e9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", "acme")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=500))
def test_bytes_come_back(blobs: BlobStore, data: bytes) -> None:
    ref = blobs.put(data, "text/plain")
    assert ref == blobs.put(data, "text/plain")
    assert (ref.sha256, ref.size, ref.media_type) == (hashlib.sha256(data).hexdigest(), len(data), "text/plain")
    assert blobs.get(ref) == blobs.get(ref.sha256) == blobs.path(ref).read_bytes() == data


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=json_values)
def test_json_comes_back(blobs: BlobStore, value: object) -> None:
    assert blobs.get_json(blobs.put_json(value)) == value


def test_layout_and_no_leftovers(blobs: BlobStore, tmp_path: Path) -> None:
    ref = blobs.put(b"x")
    found = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert found == [tmp_path / "blobs" / "acme" / ref.sha256[:2] / ref.sha256]
    assert found[0].stat().st_mode & 0o077 == 0


def test_tenants_do_not_see_each_other(blobs: BlobStore, tmp_path: Path) -> None:
    ref = blobs.put(b"x")
    with pytest.raises(InfrastructureError, match="BLOB_MISSING"):
        BlobStore(tmp_path / "blobs", "other").get(ref)


def test_changed_bytes_are_refused_and_replaced(blobs: BlobStore) -> None:
    ref = blobs.put(b"good")
    blobs.path(ref).write_bytes(b"evil")
    with pytest.raises(Refused, match="BLOB_CORRUPT"):
        blobs.get(ref)
    blobs.put(b"good")
    assert blobs.get(ref) == b"good"


def test_wrong_size_is_refused(blobs: BlobStore) -> None:
    ref = blobs.put(b"good").model_copy(update={"size": 5})
    with pytest.raises(Refused, match="BLOB_CORRUPT"):
        blobs.get(ref)


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a\n", "x" * 65, "ä"])
def test_tenant_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="TENANT_INVALID"):
        BlobStore(tmp_path, name)


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_id_that_is_no_sha256_is_refused(blobs: BlobStore, sha256: str) -> None:
    with pytest.raises(InputError, match="BLOB_ID_INVALID"):
        blobs.get(sha256)


@pytest.mark.parametrize("value", [float("nan"), 2**53, "\ud800"])
def test_value_without_canonical_form_is_refused(blobs: BlobStore, value: object) -> None:
    with pytest.raises(InputError, match="NOT_CANONICAL"):
        blobs.put_json({"value": value})


@pytest.mark.parametrize("data", [b'{"a":1,"a":2}', b"NaN", b"{} ", b"\xff", b"\xef\xbb\xbf{}"])
def test_ambiguous_json_is_refused(blobs: BlobStore, data: bytes) -> None:
    ref = blobs.put(data)
    if data == b"{} ":
        assert blobs.get_json(ref) == {}
    else:
        with pytest.raises(Refused, match="BLOB_NOT_JSON"):
            blobs.get_json(ref)
