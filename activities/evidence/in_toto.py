"""in-toto layout and links, so that ``in-toto-verify`` accepts the bundle and refuses an altered one (evidence §15). Pure.

Two steps and one inspection. ``patch`` makes the diff and the record of how it was found, from the base tree; ``compile`` makes
everything else from these; the inspection compares the files at hand with what ``compile`` made. It runs in the bundle's folder
and writes a link there, so it wants a copy of the bundle. Every file is signed by one key, so this shows that nothing was
changed, not that two parties agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from in_toto.models.layout import Layout
from in_toto.models.link import Link
from securesystemslib.signer._key import SSlibKey

from activities.evidence.statements import Unsigned
from schemas.canonical import jcs, sha256_hex
from schemas.evidence import PATCH, TRAJECTORY, milliseconds_of, timestamp_of
from schemas.stamp import AnyStamp

LAYOUT = "root.layout"
PATCH_STEP, COMPILE_STEP, INSPECTION = "patch", "compile", "bundle"
_BASE = "base-tree"
_VALID_S = 10 * 366 * 24 * 3600
"""A layout has to expire. How long a key counts is said in the trust root; evidence is read for years."""
_README = "Step patch: a diff and how it was found. Step compile: a verdict on it. Verify in a copy of the bundle's folder."


def metadata(stamp: AnyStamp, files: Mapping[str, bytes], key: ec.EllipticCurvePublicKey) -> tuple[Unsigned, ...]:
    """Layout and links of a bundle.

    Args:
        files: all files of the bundle, with their envelopes; the trajectory may be left out, the stamp has its digest.
        key: of the signer that will sign them. Unlike elsewhere the signatures name it, with the returned ``keyid``.
    """
    public = SSlibKey.from_crypto(key)
    digests = {name: sha256_hex(data) for name, data in files.items()}
    digests |= {name: member.sha256 for name, member in stamp.members.items()}
    sources = {name: digests[name] for name in (PATCH, TRAJECTORY)}
    base = {_BASE: {"gitTree": stamp.source.base_tree}}
    links = {
        PATCH_STEP: (base, _artifacts(sources)),
        COMPILE_STEP: (base | _artifacts(sources), _artifacts(digests)),
    }
    made = [_unsigned(LAYOUT, _layout(stamp, public, sorted(digests)), public)]
    for step, (materials, products) in links.items():
        made.append(_unsigned(f"{step}.{public.keyid[:8]}.link", _link(step, materials, products), public))
    return tuple(made)


def _layout(stamp: AnyStamp, key: SSlibKey, names: list[str]) -> dict[str, Any]:
    sources = (PATCH, TRAJECTORY)
    from_patch = [["MATCH", name, "WITH", "PRODUCTS", "FROM", PATCH_STEP] for name in sources]
    from_compile = [["MATCH", name, "WITH", "PRODUCTS", "FROM", COMPILE_STEP] for name in names]
    required = [["REQUIRE", name] for name in names]
    same_base = ["MATCH", _BASE, "WITH", "MATERIALS", "FROM", PATCH_STEP]
    layout = {
        "_type": "layout",
        "expires": timestamp_of(milliseconds_of(stamp.created_at) // 1000 + _VALID_S),
        "readme": _README,
        "keys": {key.keyid: {**key.to_dict(), "keyid": key.keyid}},
        "steps": [
            _step(PATCH_STEP, key, [["REQUIRE", _BASE], ["ALLOW", _BASE]], [["CREATE", name] for name in sources]),
            _step(
                COMPILE_STEP, key, [["REQUIRE", _BASE], same_base, *from_patch],
                [*required, *from_patch, *(["CREATE", name] for name in names)],
            ),
        ],
        "inspect": [
            {
                "_type": "inspection", "name": INSPECTION, "run": ["true"], "expected_materials": [],
                "expected_products": [*required, *from_compile, _NOTHING_ELSE],
            }
        ],
    }  # fmt: skip
    Layout.read(deepcopy(layout)).validate()  # raises on what in-toto itself would refuse; it empties what it reads
    return layout


_NOTHING_ELSE = ["DISALLOW", "*"]


def _step(name: str, key: SSlibKey, materials: list[list[str]], products: list[list[str]]) -> dict[str, Any]:
    return {
        "_type": "step", "name": name, "pubkeys": [key.keyid], "threshold": 1, "expected_command": [],
        "expected_materials": [*materials, _NOTHING_ELSE], "expected_products": [*products, _NOTHING_ELSE],
    }  # fmt: skip


def _link(name: str, materials: dict[str, dict[str, str]], products: dict[str, dict[str, str]]) -> dict[str, Any]:
    link = {
        "_type": "link", "name": name, "command": [], "materials": materials, "products": products, "byproducts": {},
        "environment": {},
    }  # fmt: skip
    Link.read(deepcopy(link)).validate()
    return link


def _artifacts(digests: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {name: {"sha256": digest} for name, digest in digests.items()}


def _unsigned(name: str, body: dict[str, Any], key: SSlibKey) -> Unsigned:
    return Unsigned(name, jcs(body), keyid=key.keyid)
