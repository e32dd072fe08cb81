"""Compile: a patch becomes trees and a canonical diff."""

from __future__ import annotations

from activities.kernel.implementing import implements
from activities.record.blobs import BlobStore
from activities.record.objects import ObjectStore
from activities.testbed.importing import import_patch
from activities.testbed.probing import probe_tree
from schemas.canonical import sha256_hex
from schemas.capabilities import DIFF_TYPE, IMPORT_PATCH, ImportedPatch, ImportPatch
from schemas.error import Gen4Error, InputError, Refused
from schemas.testing import Patch


class CompileActivities:
    def __init__(self, blobs: BlobStore, objects: ObjectStore) -> None:
        self._blobs = blobs
        self._objects = objects

    @implements(IMPORT_PATCH)
    def import_patch(self, request: ImportPatch) -> ImportedPatch:
        base_tree, sent = request.source.base_tree, self._bytes(request)
        try:
            imported = import_patch(self._objects, base_tree, sent, request.named_tests)
        except (InputError, Refused) as error:
            self._blobs.put(sent, DIFF_TYPE)  # the signed report is about these very bytes
            if error.code == "PATCH_DOES_NOT_APPLY" and request.patch is not None and not request.patch.isascii():
                raise _came_as_text(error) from error
            raise
        patch = Patch(
            base_tree=base_tree,
            result_tree=imported.result_tree,
            diff=self._blobs.put(imported.diff, DIFF_TYPE),
            patch_sha256=sha256_hex(imported.diff),
            paths=imported.paths,
        )
        harness_tree = imported.harness_tree
        return ImportedPatch(
            patch=patch, harness_tree=harness_tree, probe_tree=probe_tree(self._objects, base_tree, harness_tree)
        )

    def _bytes(self, request: ImportPatch) -> bytes:
        if (request.patch is None) == (request.patch_ref is None):
            raise InputError("PATCH_MISSING", "a patch is needed, as text or as a blob, and only one of them", "send one patch")
        return request.text if request.patch_ref is None else self._blobs.get(request.patch_ref)


def _came_as_text(error: Gen4Error) -> Gen4Error:
    """A likely cause where a patch has other characters than ASCII: text is UTF-8, and not every file is."""
    message = f"{error.message} (it came as text, which cannot hold the bytes of a file that is not UTF-8)"
    return Refused(error.code, message, "send the bytes that git diff writes: `gen4 compile --patch FILE`, or as patch_ref")
