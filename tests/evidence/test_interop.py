"""Other people's programs read what we write: securesystemslib, sigstore, cyclonedx, sha256sum, openssl, git."""

from __future__ import annotations

import base64
import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cyclonedx.model.bom import Bom
from securesystemslib.dsse import Envelope as ReferenceEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._key import SSlibKey
from sigstore_models.bundle.v1 import Bundle

from activities.evidence.signing import Signer
from activities.kernel import dsse
from schemas.evidence import CHECKSUMS, PAYLOAD_TYPE, PROVENANCE, SBOM, SIGSTORE_BUNDLE
from tests.evidence.workshop import Workshop


def _reference_key(signer: Signer) -> SSlibKey:
    return SSlibKey("", "ecdsa", "ecdsa-sha2-nistp256", {"public": signer.public_pem})


def test_securesystemslib_verifies_the_plain_envelope(workshop: Workshop) -> None:
    envelope = ReferenceEnvelope.from_dict(copy.deepcopy(json.loads(workshop.files[PROVENANCE])))
    envelope.verify([_reference_key(workshop.signer)], 1)
    envelope.payload += b" "
    with pytest.raises(VerificationError):
        envelope.verify([_reference_key(workshop.signer)], 1)


def test_our_encoding_before_signing_is_the_reference_one(workshop: Workshop) -> None:
    envelope = ReferenceEnvelope.from_dict(copy.deepcopy(json.loads(workshop.files[PROVENANCE])))
    assert envelope.pae() == dsse.pae(envelope.payload_type, envelope.payload)


def test_openssl_verifies_the_signature(workshop: Workshop, tmp_path: Path) -> None:
    envelope = json.loads(workshop.files[PROVENANCE])
    (tmp_path / "key").write_text(workshop.signer.public_pem)
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    (tmp_path / "body").write_bytes(dsse.pae(PAYLOAD_TYPE, base64.b64decode(envelope["payload"])))
    command = ["openssl", "dgst", "-sha256", "-verify", "key", "-signature", "sig", "body"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).stdout == b"Verified OK\n"


def test_sigstore_reads_the_bundle_and_its_envelope_verifies(workshop: Workshop) -> None:
    bundle = Bundle.from_json(workshop.files[SIGSTORE_BUNDLE])
    assert bundle.verification_material.public_key is not None and bundle.dsse_envelope is not None
    assert bundle.verification_material.public_key.hint == workshop.signer.hint
    inner, outer = bundle.dsse_envelope, json.loads(workshop.files[PROVENANCE])
    assert (inner.payload_type, len(inner.signatures)) == (PAYLOAD_TYPE, 1)
    assert inner.payload == base64.b64decode(outer["payload"])
    key = workshop.signer.public_key
    assert dsse.verify(key, PAYLOAD_TYPE, inner.payload, inner.signatures[0].sig)


def test_the_bill_of_materials_is_read_by_its_own_library(workshop: Workshop) -> None:
    document = json.loads(workshop.files[SBOM])
    read = Bom.from_json(document)  # type: ignore[attr-defined]  # made by a decorator
    assert {component.name for component in read.components} == {"pytest", "base-root-filesystem"}
    assert "serialNumber" not in document and "timestamp" not in document["metadata"]
    (wheel,) = [item for item in document["components"] if item["type"] == "library"]
    (base,) = [item for item in document["components"] if item["type"] == "operating-system"]
    assert wheel["licenses"] == [{"license": {"id": "MIT"}}] and wheel["purl"] == "pkg:pypi/pytest@9.2.0"
    assert base["components"][0]["purl"] == "pkg:deb/debian/libc6@2.36-9?arch=amd64"


def test_sha256sum_checks_the_folder(workshop: Workshop, place: Callable[[dict[str, bytes]], Path]) -> None:
    done = subprocess.run(["sha256sum", "--strict", "-c", CHECKSUMS], cwd=place(workshop.files), capture_output=True, check=False)
    assert done.returncode == 0 and done.stdout.count(b": OK") == 5
