"""Every module that takes a power over the outside world, which one, and why it may. What is not here may not; see test_reach.

An activity's implementation reaches these only through the ports that ``workers/ports.py`` hands it, and it runs only behind the
gate. Folders end with a slash.
"""

from __future__ import annotations

from tests.escape.powers import Power

INSIDE = "runs inside the sandbox only; a test sees that no module of ours imports it"

ALLOWED: dict[str, dict[Power, str]] = {
    # --- ground floor ------------------------------------------------------------------------------------------------
    "activities/record/git.py": {
        "process": "the one place that starts git: fresh environment, argv only", "signal": "ends a git that ran too long",
    },
    "activities/record/commits.py": {"git": "commits, in our own object store"},
    "activities/record/objects.py": {"git": "our own bare object store"},
    "activities/record/packs.py": {"git": "trees as packs, for others of ours", "process": "pipes of a git that git.py started"},
    "activities/record/remotes.py": {"git": "refs of a repository elsewhere"},
    "activities/record/transfer.py": {"git": "fetch into and push from our own object store"},
    "activities/record/readers.py": {"git": "objects as raw bytes", "process": "pipes of a git that git.py started"},
    "activities/record/trees.py": {"git": "checks ids"},
    "activities/record/databases.py": {"database": "the one place that makes an engine; migrations"},
    "activities/record/backup.py": {"database": "SQLite's own online backup", "process": "pg_dump and pg_restore, argv only"},
    "activities/record/postgresql.py": {"process": "asks PostgreSQL's programs for their version"},
    "activities/record/migrations/env.py": {"database": "alembic's own hook"},
    # --- kernel ------------------------------------------------------------------------------------------------------
    "activities/kernel/gate.py": {
        "activity": "the one interceptor of activities", "temporal client": "reads how a run began, from the server",
    },
    "activities/kernel/channel.py": {"network": "Unix sockets between our own processes"},
    "activities/kernel/listening.py": {"network": "the listening end of those sockets"},
    "activities/kernel/ssh.py": {"process": "ssh-keygen, to check signatures"},
    "activities/kernel/sandbox/bubblewrap.py": {"process": "starts sandboxes", "signal": "ends sandboxes"},
    "activities/kernel/sandbox/docker.py": {"docker": "starts sandboxes", "network": "errors and streams of the engine's socket"},
    "activities/kernel/sandbox/docker_build.py": {"docker": "imports a base image", "network": "errors of the engine's socket"},
    "activities/kernel/sandbox/engine.py": {
        "docker": "asks an engine whether it answers", "process": "starts an engine of our own", "signal": "ends it",
    },
    "activities/kernel/sandbox/launcher.py": {
        "process": "becomes bubblewrap, in a process of its own", "code": "libc: keyring and no new privileges",
    },
    "activities/kernel/sandbox/orphans.py": {"signal": "ends sandboxes whose worker died"},
    "activities/kernel/sandbox/rootfs.py": {"process": "builds the base of sandboxes"},
    "activities/kernel/sandbox/inside/": {"code": INSIDE, "network": INSIDE},
    # --- what the layers do ------------------------------------------------------------------------------------------
    "activities/control/keysets.py": {"network": "public keys of the OIDC issuers that the operator named; no activity uses it"},
    "activities/testbed/activities.py": {"activity": "asks whether it was cancelled"},
    "activities/testbed/resolving.py": {"process": "pip, wheels only, by hash", "network": "the operator's package index"},
    "activities/testbed/node_packages.py": {"process": "asks npm for its registry", "network": "the operator's npm registry"},
    "activities/testbed/runner/swap.py": {"code": "compile() of one edited function, here only to see whether it parses"},
    "activities/testbed/runner/": {"process": INSIDE, "signal": INSIDE, "code": INSIDE, "network": INSIDE},
    "activities/explore/activities.py": {"activity": "asks whether it was cancelled"},
    "activities/explore/splice.py": {"code": "compile() of a candidate, to see whether it parses; never run here"},
    "activities/explore/templates/proposing.py": {"code": "imports our own templates by their fixed names"},
    "activities/forge/activities.py": {"activity": "asks whether it was cancelled"},
    "activities/forge/targets.py": {"git": "refs of the target, before and after the push"},
    "activities/policy/bundle.py": {"process": "`opa build` of our own policies"},
    "activities/policy/opa.py": {"network": "the policy engine on loopback"},
    "activities/evidence/short_answers.py": {"network": "bounds what the signing services answer"},
    "activities/evidence/keyless_signing.py": {"network": "the signing services that the operator names"},
    # --- workers and the command line --------------------------------------------------------------------------------
    "workers/authority/server.py": {"network": "the development authority, on loopback"},
    "workers/authority/stamping.py": {"process": "`openssl ts`"},
    "workers/client.py": {"temporal client": "the one connection to the server"},
    "workers/executions.py": {"temporal client": "asks the server how runs ended, for the reaper"},
    "workers/schedules.py": {"temporal client": "the fabric's own schedules"},
    "workers/server.py": {"temporal client": "search attributes of the namespace"},
    "workers/telemetry.py": {"network": "metrics, on loopback"},
    "workers/fabric.py": {"process": "starts the supervisor", "signal": "asks it to stop"},
    "workers/registration.py": {"activity": "the one dynamic activity of a worker"},
    "workers/sdk_download.py": {"temporal client": "lets the SDK fetch the development server"},
    "workers/setup.py": {"process": "builds what `make setup` builds"},
    "workers/hiding.py": {"code": "libc: nobody may read the memory of who holds a key"},
    "workers/signer.py": {"git": "asks git for its version"},
    "workers/supervisor.py": {
        "process": "starts server, policy engine and worker", "network": "waits until they answer, on loopback",
        "code": "libc: children die with their parent",
        "database": "reads whether Temporal's own was ever finished; never the store",
    },
    "workers/toolchain.py": {"process": "builds and finds programs", "signal": "ends a build that ran too long"},
    "workers/worker.py": {"activity": "the one place that makes workers", "temporal client": "polls", "network": "its host"},
    "cli/approvals.py": {"temporal client": "sends a decision"},
    "cli/authority.py": {"network": "finds a free port on loopback"},
    "cli/compiling.py": {"temporal client": "starts a workflow"},
    "cli/ga.py": {"temporal client": "starts a workflow"},
    "cli/demo.py": {"temporal client": "waits for its own session", "process": "its own target repository"},
    "cli/demo_source.py": {"network": "fetches the demo's source from the index that the operator names"},
    "cli/doctor.py": {"process": "versions of programs"},
    "cli/fabric.py": {"process": "starts and stops the fabric"},
    "cli/main.py": {"code": "imports our own commands by their fixed names"},
    "cli/session.py": {"temporal client": "starts, watches and cancels a workflow"},
}  # fmt: skip
