"""Compile: a patch becomes trees and a canonical diff."""

from __future__ import annotations

from activities.kernel.implementing import implements
from activities.record.blobs import BlobStore
from activities.record.objects import ObjectStore
from activities.testbed.importing import import_patch
from activities.testbed.probing import probe_tree
from schemas.canonical import sha256_hex
from schemas.capabilities import IMPORT_PATCH, ImportedPatch, ImportPatch
from schemas.error import InputError
from schemas.testing import Patch


class CompileActivities:
    def __init__(self, blobs: BlobStore, objects: ObjectStore) -> None:
        self._blobs = blobs
        self._objects = objects

    @implements(IMPORT_PATCH)
    def import_patch(self, request: ImportPatch) -> ImportedPatch:
        base_tree = request.source.base_tree
        imported = import_patch(self._objects, base_tree, self._bytes(request))
        patch = Patch(
            base_tree=base_tree,
            result_tree=imported.result_tree,
            diff=self._blobs.put(imported.diff, "text/x-diff"),
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
        if request.patch_ref is not None:
            return self._blobs.get(request.patch_ref)
        try:
            return (request.patch or "").encode()
        except UnicodeEncodeError as error:
            raise InputError("PATCH_NOT_UTF8", "the patch is not valid Unicode text", "send the output of git diff") from error
