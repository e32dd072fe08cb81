"""``gen4``: a thin client. It starts workflows, sends signals, reads the store and verifies bundles."""

import os
import sys

# `python -m` puts the working directory first: a cloned repository there must not supply our modules (threats 1.1).
# While a package is imported for -m, Python keeps "-m" as the program's name.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
    del sys.path[0]
