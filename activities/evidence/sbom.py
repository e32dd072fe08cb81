"""Member 5: CycloneDX 1.6 of the target, its environment and the base root filesystem; no serial number, no time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from schemas.canonical import jcs
from schemas.testing import EnvironmentLock, NodeEnvironmentLock, NodePackage, Wheel

_LICENSE_LIMIT = 200


@dataclass(frozen=True)
class Target:
    """What was repaired: its name, and the commit it was repaired on."""

    name: str
    version: str


def write_sbom(target: Target, lock: EnvironmentLock, base_packages: Mapping[str, str]) -> bytes:
    """JCS bytes; equal inputs give equal bytes.

    Args:
        base_packages: Debian packages of the base root filesystem, ``name:architecture`` to version.
    """
    bom = Bom()
    root = Component(type=ComponentType.APPLICATION, name=target.name, version=target.version, bom_ref="target")
    bom.metadata.component = root
    parts = [_wheel(wheel) for wheel in lock.wheels]
    if isinstance(lock, NodeEnvironmentLock):
        parts += [_node_package(package) for package in lock.packages if not package.link]
    base = _base(lock.base_digest)
    for component in (*parts, base):
        bom.components.add(component)
    bom.register_dependency(root, [*parts, base])
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    if packages := _debian(tuple(sorted(base_packages.items()))):
        next(one for one in document["components"] if one["bom-ref"] == base.bom_ref.value)["components"] = packages
    # The library always writes both; they would differ on every run.
    document.pop("serialNumber", None)
    document.get("metadata", {}).pop("timestamp", None)
    return jcs(document)


def _wheel(wheel: Wheel) -> Component:
    component = Component(
        type=ComponentType.LIBRARY,
        name=wheel.name,
        version=wheel.version,
        purl=PackageURL("pypi", name=wheel.name, version=wheel.version),
        bom_ref=f"wheel:{wheel.filename}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=wheel.sha256)],
    )
    return _licensed(component, wheel.license)


def _node_package(package: NodePackage) -> Component:
    namespace, _, name = package.name.rpartition("/")
    component = Component(
        type=ComponentType.LIBRARY,
        name=package.name,
        version=package.version,
        purl=PackageURL("npm", namespace or None, name, package.version),
        bom_ref=f"npm:{package.path}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)],
    )
    return _licensed(component, package.license)


def _licensed(component: Component, text: str) -> Component:
    """Some packages put the whole text of their licence where its name belongs."""
    if name := text.strip().partition("\n")[0][:_LICENSE_LIMIT]:
        component.licenses.add(LicenseFactory().make_from_string(name))
    return component


def _base(digest: str) -> Component:
    return Component(
        type=ComponentType.OPERATING_SYSTEM,
        name="base-root-filesystem",
        version=digest,
        bom_ref="base",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))],
    )


@lru_cache(maxsize=4)
def _debian(packages: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    """What a base is made of, which is a part of this installation and no result: remembered, and not to be changed."""
    bom = Bom()
    for full_name, version in packages:
        name, _, architecture = full_name.partition(":")
        purl = PackageURL("deb", "debian", name, version, {"arch": architecture} if architecture else None)
        bom.components.add(
            Component(type=ComponentType.LIBRARY, name=name, version=version, purl=purl, bom_ref=f"deb:{full_name}")
        )
    components: list[dict[str, Any]] = json.loads(JsonV1Dot6(bom).output_as_string()).get("components", [])
    return components
