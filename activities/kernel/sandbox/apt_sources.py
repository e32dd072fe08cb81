"""The machine's own apt sources for one suite, as mmdebstrap reads them; no mirror is written into the product."""

from __future__ import annotations

from pathlib import Path

APT = Path("/etc/apt")


def matching_sources(suite: str, scratch: Path, apt: Path = APT) -> tuple[str, ...]:
    """Files with the sources of ``suite``, its updates and security, written into ``scratch``.

    Empty on a machine that has none (another distribution): mmdebstrap then takes its own defaults.
    """
    wanted = {suite, f"{suite}-updates", f"{suite}-security"}
    stanzas = [_stanza(text, wanted) for text in _stanzas(apt)]
    lines = [line for line in _lines(apt) if _suite_of(line) in wanted]
    written: list[str] = []
    for name, content in (("machine.sources", [s for s in stanzas if s]), ("machine.list", lines)):
        if content:
            target = scratch / name
            target.write_text(("\n\n" if name.endswith("sources") else "\n").join(content) + "\n")
            written.append(str(target))
    return tuple(written)


def _stanzas(apt: Path) -> list[str]:
    texts = [path.read_text() for path in sorted((apt / "sources.list.d").glob("*.sources"))]
    return [stanza for text in texts for stanza in text.split("\n\n")]


def _stanza(text: str, wanted: set[str]) -> str:
    """The stanza with only the suites wanted, or nothing."""
    fields: list[str] = []
    kept: list[str] = []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if line.startswith("#") or not line.strip():
            continue
        if key.lower() == "enabled" and value.strip().lower() == "no":
            return ""
        if key.lower() == "suites":
            kept = [word for word in value.split() if word in wanted]
            line = f"Suites: {' '.join(kept)}"
        fields.append(line)
    return "\n".join(fields) if kept else ""


def _lines(apt: Path) -> list[str]:
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))]
    texts = [path.read_text() for path in files if path.is_file()]
    return [line.strip() for text in texts for line in text.splitlines() if line.startswith("deb ")]


def _suite_of(line: str) -> str:
    words = line.split("]", 1)[1].split() if "[" in line else line.split()[1:]
    return words[1] if len(words) > 1 else ""
