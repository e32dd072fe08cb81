"""``python -m workers.catalogue``: writes ``policies/catalogue.rego``, each capability's descriptor as reviewed and released.

A capability whose declaration changed is not executable until somebody looked at the change and wrote the catalogue anew; it
is part of the policy bundle, so the digest that approvals and stamps name covers it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from schemas.capabilities import CAPABILITIES

PATH = Path(__file__).resolve().parents[1] / "policies" / "catalogue.rego"
HEAD = """# Made by `make catalogue` from schemas/capabilities.py: what each capability is, in 64 hex digits. Review, then commit.
package gen4.catalogue

descriptors := {
"""


def rendered() -> str:
    lines = [f'\t"{id}": "{CAPABILITIES[id].descriptor_sha256}",\n' for id in sorted(CAPABILITIES)]
    return HEAD + "".join(lines) + "}\n"


def main() -> int:
    PATH.write_text(rendered())
    print(f"{len(CAPABILITIES)} capabilities")
    return 0


if __name__ == "__main__":
    sys.exit(main())
