"""The worker's side of the signer: sends what is to be sealed as data, supplies the content that the signer asks for by hash."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, cast

from activities.kernel.channel import Channel, Closed, call
from activities.record.blobs import BlobStore
from activities.record.objects import ObjectStore
from schemas.capabilities import SealBundle, SealRejection
from schemas.error import InfrastructureError, InputError
from schemas.stamp import StampCheckpoint
from schemas.task import TraceKeys
from schemas.trust import Trusted

_IN_MEMORY = 16 * 1024 * 1024
SILENT_S = 300.0
"""As long as an attempt to seal may take: a signer that says nothing for so long is gone."""
Files = dict[str, bytes]


@dataclass(frozen=True)
class Sealed:
    """What the signer made: stamp and envelopes, and the statements that lie beside the bundle."""

    files: Files
    attestations: Files


@dataclass(frozen=True)
class AnsweringSigner:
    """``executors``: public keys of those that it believes; ``trusted_roots``: JSON documents that verifiers have to pin."""

    trusted: Trusted
    executors: tuple[str, ...]
    trusted_roots: tuple[str, ...]


@dataclass(frozen=True)
class SignerClient:
    """One call is one connection. ``connect`` raises InfrastructureError when nobody answers."""

    connect: Callable[[], Channel]
    blobs: BlobStore
    objects: ObjectStore
    silent_s: float = SILENT_S

    def signer(self) -> AnsweringSigner:
        """Who signs now, as the trust file of this home has to name it."""
        answer = self._call({"op": "signer"})
        return AnsweringSigner(
            Trusted.model_validate(answer["signer"]), tuple(answer["executors"]), tuple(answer["trusted_roots"])
        )

    def seal(self, request: SealBundle, keys: TraceKeys, checkpoint: StampCheckpoint | None = None) -> Sealed:
        """Raises: what the signer refuses, with its code; InfrastructureError SIGNER_UNAVAILABLE."""
        answer = self._call(
            {
                "op": "seal", "keys": keys.model_dump(mode="json"), "request": request.model_dump(mode="json"),
                "checkpoint": None if checkpoint is None else checkpoint.model_dump(mode="json"),
            }
        )  # fmt: skip
        return Sealed(_decoded(answer["files"]), _decoded(answer["attestations"]))

    def reject(self, request: SealRejection, keys: TraceKeys, report_id: str) -> Files:
        """The files of a Rejection Report. Raises as :meth:`seal`."""
        message = {"op": "reject", "keys": keys.model_dump(mode="json"), "request": request.model_dump(mode="json")}
        return _decoded(self._call({**message, "report_id": report_id})["files"])

    def _call(self, message: dict[str, Any]) -> Any:
        try:
            channel = self.connect()
        except InfrastructureError as error:
            raise _unavailable(error) from error
        try:
            channel.wait_at_most(self.silent_s)
            answer, body = call(channel, message, supply=self._supply)
            body.close()
            return answer
        except Closed as error:
            raise _unavailable(error) from error
        finally:
            channel.close()

    def _supply(self, wanted: Mapping[str, Any]) -> bytes | IO[bytes]:
        if wanted.keys() == {"blob"}:
            return self._blob(str(wanted["blob"]))
        if wanted.keys() == {"commit"}:
            return self.objects.read(str(wanted["commit"]))
        if wanted.keys() == {"tree", "known"}:
            pack = cast(IO[bytes], tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY))  # noqa: SIM115  it ends with the call
            self.objects.pack(str(wanted["tree"]), pack, [str(tree) for tree in wanted["known"]])
            return pack
        raise InputError("NEED_UNKNOWN", f"the signer asks for {sorted(wanted)}", "run signer and worker of one version")

    def _blob(self, sha256: str) -> IO[bytes]:
        """Not hashed here: the signer hashes what arrives."""
        try:
            return self.blobs.path(sha256).open("rb")
        except OSError as error:
            remedy = "restore the blobs folder from a backup"
            raise InfrastructureError("BLOB_MISSING", f"blob {sha256} cannot be read: {error.strerror}", remedy) from error


def _decoded(files: Mapping[str, str]) -> Files:
    return {name: base64.b64decode(data, validate=True) for name, data in files.items()}


def _unavailable(error: InfrastructureError) -> InfrastructureError:
    return InfrastructureError("SIGNER_UNAVAILABLE", f"the signer does not answer: {error.message}", "run `gen4 status`")
