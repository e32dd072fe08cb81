"""What the change brings into the environment: distributions, versions, licences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from packaging.version import InvalidVersion, Version

from activities.verify.measuring import DependencyRules, LicenceRules, Measured, Regression, some

_NAMES = {
    "mit license": "MIT", "the mit license": "MIT", "the mit license (mit)": "MIT", "expat": "MIT", "mit no attribution": "MIT-0",
    "mit no attribution license (mit-0)": "MIT-0",
    "bsd": "BSD-3-Clause", "bsd license": "BSD-3-Clause", "bsd 3-clause": "BSD-3-Clause", "bsd-3-clause license": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause", "new bsd license": "BSD-3-Clause", "modified bsd license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause", "bsd 3-clause license": "BSD-3-Clause", "bsd 2-clause license": "BSD-2-Clause",
    "simplified bsd": "BSD-2-Clause", "zero-clause bsd (0bsd)": "0BSD",
    "apache software license": "Apache-2.0", "apache license 2.0": "Apache-2.0", "apache license, version 2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0", "apache-2": "Apache-2.0", "apache 2": "Apache-2.0", "apache license": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "python software foundation license": "PSF-2.0", "psf": "PSF-2.0", "psfl": "PSF-2.0", "isc license (iscl)": "ISC",
    "isc license": "ISC", "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0", "mpl 2.0": "MPL-2.0", "zlib/libpng license": "Zlib",
    "the unlicense (unlicense)": "Unlicense", "public domain": "LicenseRef-Public-Domain",
}  # fmt: skip
"""What distributions write, mostly trove classifiers, to SPDX ids. What is not here and no SPDX id is unknown."""
_TOKEN = re.compile(r"\(|\)|[A-Za-z0-9.+:-]+")
_BETWEEN = ("", ")", "and", "or", "with")


class Distribution(NamedTuple):
    """A wheel, or a package of another ecosystem. ``license``: as its metadata has it."""

    name: str
    version: str
    license: str = ""


def compare_dependencies(base: Sequence[Distribution], patched: Sequence[Distribution], rules: DependencyRules) -> Measured:
    """New, gone and changed distributions are reported; denied ones and older versions are regressions."""
    before, after = _by_name(base), _by_name(patched)
    added = tuple(sorted(after.keys() - before.keys()))
    gone = tuple(sorted(before.keys() - after.keys()))
    changed = tuple(name for name in sorted(before.keys() & after.keys()) if before[name].version != after[name].version)
    worse = [_worse(name, "policy denies it") for name in (*added, *changed) if name in rules.denied]
    if not rules.downgrades:
        worse += [
            _worse(name, f"{before[name].version}, then the older {after[name].version}")
            for name in changed if _is_older(after[name].version, before[name].version)
        ]  # fmt: skip
    parts = [f"{what} {some(names)}" for what, names in (("new:", added), ("gone:", gone), ("changed:", changed)) if names]
    return Measured("dependencies", "; ".join(parts) or f"the same {len(after)} distributions", tuple(worse))


def compare_licences(base: Sequence[Distribution], patched: Sequence[Distribution], rules: LicenceRules) -> Measured:
    """Licences of distributions that are new, or that changed theirs. What was there before is nobody's regression."""
    before = {(one.name, one.license) for one in base}
    new = sorted({one for one in patched if (one.name, one.license) not in before})
    worse = []
    for one in new:
        allowed = is_allowed(one.license, frozenset(rules.allowed))
        if allowed is False or (allowed is None and not rules.unknown):
            stated = one.license or "no licence stated"
            worse.append(Regression("REG_LICENCE", one.name, f"{one.name} {one.version}: {stated}"))
    looked_at = some(tuple(f"{one.name} ({one.license or 'none stated'})" for one in new))
    return Measured("licences", f"new or changed: {looked_at}" if new else "no new licence", tuple(worse))


def is_allowed(text: str, allowed: frozenset[str]) -> bool | None:
    """Whether a licence text (SPDX expression, classifier, free text) permits use under ``allowed``; None: it cannot be told."""
    known = {name.casefold(): name for name in allowed} | {key: name for key, name in _NAMES.items() if name in allowed}
    plain = " ".join(text.split()).casefold()
    if not plain:
        return None
    if plain in known:
        return True
    if plain in _NAMES:
        return False
    tokens = _TOKEN.findall(plain)
    if "".join(tokens) != "".join(plain.split()):
        return None
    try:
        return _Expression(iter(tokens), known).read()
    except (ValueError, RecursionError):
        return None


class _Expression:
    """A recursive reader of SPDX expressions: OR binds weaker than AND, WITH adds an exception to a licence."""

    def __init__(self, tokens: Iterator[str], known: dict[str, str]) -> None:
        self._tokens, self._known = tokens, known
        self._next = next(tokens)

    def read(self) -> bool:
        value = self._any()
        if self._next:
            raise ValueError(self._next)
        return value

    def _take(self) -> str:
        taken, self._next = self._next, next(self._tokens, "")
        return taken

    def _any(self) -> bool:
        value = self._all()
        while self._next == "or":
            self._take()
            value = self._all() or value
        return value

    def _all(self) -> bool:
        value = self._one()
        while self._next == "and":
            self._take()
            value = self._one() and value
        return value

    def _one(self) -> bool:
        word = self._take()
        if word == "(":
            value = self._any()
            if self._take() != ")":
                raise ValueError(word)
            return value
        if word in _BETWEEN or self._next not in _BETWEEN:
            raise ValueError(word)
        if self._next == "with":
            self._take()
            self._take()  # an exception only permits more
        return word in self._known


def _by_name(distributions: Sequence[Distribution]) -> dict[str, Distribution]:
    """Of several versions of one name the newest."""
    found: dict[str, Distribution] = {}
    for one in distributions:
        if one.name not in found or _is_older(found[one.name].version, one.version):
            found[one.name] = one
    return found


def _worse(name: str, text: str) -> Regression:
    return Regression("REG_DEPENDENCY", name, f"{name}: {text}")


def _is_older(version: str, than: str) -> bool:
    try:
        return Version(version) < Version(than)
    except InvalidVersion:
        return False
