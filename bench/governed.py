"""The yardstick of ``bench.kernel``: ``govern()`` of the agent-governance-toolkit package, in an environment of its own.

Run by that environment's Python, which has nothing of ours. For every line ``PLAIN|AUDITED CALLS`` on standard input it
makes so many governed calls and answers with one line: the nanoseconds of each, as a JSON list.
"""

import json
import sys
import time
import warnings
from importlib.metadata import version

warnings.simplefilter("ignore", DeprecationWarning)  # the package warns about its own import path

from agentmesh.governance import govern  # noqa: E402

POLICY = """
apiVersion: governance.toolkit/v1
name: bench
agents: ["*"]
default_action: deny
rules:
  - name: deliver
    condition: "action.type == 'forge.deliver'"
    action: allow
"""
AUDITED_AT_MOST = 20_000
"""Its audit log grows with every call and becomes slower; a new one takes over before that counts."""


def tool(**_: object) -> None:
    """What is governed does nothing."""


def main() -> None:
    sys.stdout.write(json.dumps({"version": version("agent-governance-toolkit")}) + "\n")
    sys.stdout.flush()
    audits, calls = 0, {}
    for line in sys.stdin:
        kind, count = line.split()
        if kind not in calls or audits > AUDITED_AT_MOST:
            audits, calls[kind] = 0, govern(tool, policy=POLICY, agent_id="bench", audit=kind == "AUDITED")
        audits += int(count) if kind == "AUDITED" else 0
        sys.stdout.write(json.dumps(timed(calls[kind], int(count))) + "\n")
        sys.stdout.flush()


def timed(call, count):
    clock, times = time.perf_counter_ns, []
    for _ in range(count):
        began = clock()
        call(action="forge.deliver", phase="release", session_id="0af7651916cd43dd8448eb211c80319c")
        times.append(clock() - began)
    return times


main()
