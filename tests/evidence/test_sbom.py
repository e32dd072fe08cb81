"""The bill of materials: target, environment and base; complete, the same every time, whatever a package says of its licence."""

from __future__ import annotations

import json
from typing import Any

from cyclonedx.model.bom import Bom
from hypothesis import given
from hypothesis import strategies as st

from activities.evidence.sbom import Target, write_sbom
from schemas.canonical import jcs
from schemas.testing import EnvironmentLock, NodeEnvironmentLock, NodePackage, Wheel

BASE = {"libc6:amd64": "2.36-9", "tzdata": "2025a"}


def lock(*licences: str) -> EnvironmentLock:
    wheels = tuple(
        Wheel(name=f"p{number}", version="1.0", sha256=f"{number:064x}", filename=f"p{number}-1.0-py3-none-any.whl", license=text)
        for number, text in enumerate(licences)
    )
    return EnvironmentLock(
        base_digest="sha256:" + "d0" * 32, platform="linux/x86_64", python_version="3.11.2", profile="wheels/1", origin="request",
        wheels=wheels,
    )  # fmt: skip


def made(*licences: str) -> dict[str, Any]:
    data = write_sbom(Target("calc", "c0" * 20), lock(*licences), BASE)
    assert data == write_sbom(Target("calc", "c0" * 20), lock(*licences), dict(reversed(BASE.items())))
    document: dict[str, Any] = json.loads(data)
    assert jcs(document) == data
    return document


def test_it_lists_the_target_its_wheels_with_hashes_and_licences_and_the_base() -> None:
    document = made("MIT", "MIT OR Apache-2.0", "BSD License", "")
    target = document["metadata"]["component"]
    assert (target["name"], target["version"], target["bom-ref"]) == ("calc", "c0" * 20, "target")
    wheels = {one["name"]: one for one in document["components"] if one["type"] == "library"}
    assert [one.get("licenses") for _, one in sorted(wheels.items())] == [
        [{"license": {"id": "MIT"}}], [{"expression": "MIT OR Apache-2.0"}], [{"license": {"name": "BSD License"}}], None,
    ]  # fmt: skip
    assert wheels["p3"]["hashes"] == [{"alg": "SHA-256", "content": f"{3:064x}"}] and wheels["p3"]["purl"] == "pkg:pypi/p3@1.0"
    (base,) = [one for one in document["components"] if one["type"] == "operating-system"]
    assert base["hashes"] == [{"alg": "SHA-256", "content": "d0" * 32}]
    packages = {one["purl"] for one in base["components"]}
    assert packages == {"pkg:deb/debian/libc6@2.36-9?arch=amd64", "pkg:deb/debian/tzdata@2025a"}


@given(st.text(max_size=300))
def test_whatever_a_package_says_of_its_licence_the_document_is_whole(text: str) -> None:
    """What CycloneDX 1.6 demands beyond types: names are unique, what is referred to exists, no licence is said in two ways."""
    document = made(text, "MIT")
    assert (document["bomFormat"], document["specVersion"], document["version"]) == ("CycloneDX", "1.6", 1)
    assert not {"serialNumber"} & document.keys() and "timestamp" not in document["metadata"]
    components = [document["metadata"]["component"], *document["components"]]
    references = [one["bom-ref"] for top in components for one in (top, *top.get("components", ()))]
    assert len(set(references)) == len(references)
    depended = {name for one in document["dependencies"] for name in (one["ref"], *one.get("dependsOn", ()))}
    assert depended <= set(references) and {"target", "base"} <= depended
    for licences in (one.get("licenses", []) for one in components):
        kinds = [kind for licence in licences for kind in licence]
        assert kinds in ([], ["license"], ["expression"])
    assert len(list(Bom.from_json(document).components)) == 3  # type: ignore[attr-defined]  # made by a decorator


def test_packages_of_a_javascript_target_are_listed_each_where_it_lies() -> None:
    """The same release may lie in two folders, and a workspace is part of the target, not of its environment."""
    packages = tuple(
        NodePackage(path=path, name=name, version="1.0.0", sha256="ab" * 32, integrity="", license=licence, link=link)
        for path, name, licence, link in (
            ("node_modules/@scope/a", "@scope/a", "ISC", ""), ("node_modules/b", "b", " ", ""),
            ("node_modules/@scope/a/node_modules/b", "b", "", ""), ("node_modules/own", "own", "", "packages/own"),
        )
    )  # fmt: skip
    plain = lock("MIT").model_dump(exclude={"schema_version"})
    node = NodeEnvironmentLock(**plain, node_version="22.1.0", packages=packages)
    document = json.loads(write_sbom(Target("calc", "c0" * 20), node, BASE))
    found = {one["bom-ref"]: one for one in document["components"] if one["bom-ref"].startswith("npm:")}
    assert set(found) == {"npm:node_modules/@scope/a", "npm:node_modules/b", "npm:node_modules/@scope/a/node_modules/b"}
    assert found["npm:node_modules/@scope/a"]["purl"] == "pkg:npm/%40scope/a@1.0.0"
    assert found["npm:node_modules/@scope/a"]["licenses"] == [{"license": {"id": "ISC"}}]
    assert "licenses" not in found["npm:node_modules/b"]
    (target,) = [one for one in document["dependencies"] if one["ref"] == "target"]
    assert set(target["dependsOn"]) == {*found, "base", "wheel:p0-1.0-py3-none-any.whl"}
