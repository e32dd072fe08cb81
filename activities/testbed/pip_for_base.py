"""Run as a script: pip, with the environment markers of the sandbox's Python instead of those of the host's.

    python -I pip_for_base.py MARKERS_JSON PIP_ARGUMENT…

``pip download --python-version`` chooses wheels for another Python, but evaluates ``; python_version < "3.12"`` for its own.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    from pip._internal.cli.main import main as pip_main
    from pip._vendor.packaging import markers

    variables = json.loads(sys.argv[1])
    markers.default_environment = lambda: dict(variables)  # type: ignore[assignment,return-value]
    sys.exit(pip_main(sys.argv[2:]))


if __name__ == "__main__":
    main()
