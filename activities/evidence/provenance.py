"""Member 8's payload: an in-toto Statement with SLSA provenance v1 over members 1-7 (evidence §9). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from activities.evidence.content import Content, sha256_of
from activities.evidence.sources import git_uri
from schemas.evidence import BUILD_TYPE, BUILDER_ID, PREDICATE_TYPE, STATEMENT_TYPE, SUBJECT_MEMBERS
from schemas.stamp import AnyStamp
from schemas.statement import (
    BuildDefinition,
    Builder,
    ExternalParameters,
    Provenance,
    ResourceDescriptor,
    RunDetails,
    RunMetadata,
    Statement,
    Subject,
    SubjectDigest,
)


def external_parameters(task_id: str, repository: str, ref: str) -> ExternalParameters:
    """``repository`` as the stamp names it (without credentials)."""
    return ExternalParameters(task_id=task_id, repository=repository, ref=ref, profile="embedded")


def write_statement(members: Mapping[str, Content], stamp: AnyStamp, builder_id: str = BUILDER_ID) -> Statement:
    """Args:
    members: 1-7.
    """
    provenance = Provenance(
        buildDefinition=BuildDefinition(
            buildType=BUILD_TYPE,
            externalParameters=external_parameters(stamp.task_id, stamp.source.repo, stamp.source.ref).model_dump(),
            internalParameters=internal_parameters(stamp),
            resolvedDependencies=dependencies_of(stamp),
        ),
        runDetails=RunDetails(
            builder=Builder(id=builder_id, version={"gen4": stamp.engines.gen4}),
            metadata=RunMetadata(invocationId=stamp.session_id),
        ),
    )
    return Statement(
        type_=STATEMENT_TYPE,
        subject=tuple(Subject(name=name, digest=SubjectDigest(sha256=sha256_of(members[name]))) for name in SUBJECT_MEMBERS),
        predicateType=PREDICATE_TYPE,
        predicate=provenance.model_dump(mode="json", exclude_none=True),
    )


def internal_parameters(stamp: AnyStamp) -> dict[str, Any]:
    """How it was run. A later release may add to them."""
    return {
        "environment_digest": stamp.compile.environment_digest,
        "limits": stamp.compile.limits.model_dump(),
        "seeds": stamp.compile.seeds.model_dump(),
    }


def dependencies_of(stamp: AnyStamp) -> tuple[ResourceDescriptor, ...]:
    """What the result was made from: source commit, environment, policy, sandbox profile."""
    return (
        ResourceDescriptor(name="source", uri=git_uri(stamp.source.repo), digest={"gitCommit": stamp.source.base_commit}),
        ResourceDescriptor(name="environment", digest={"sha256": stamp.compile.environment_digest.removeprefix("sha256:")}),
        ResourceDescriptor(name="policy", digest={"sha256": stamp.policy.policy_digest.removeprefix("sha256:")}),
        ResourceDescriptor(name="sandbox-profile", digest={"sha256": stamp.sandbox.profile_sha256}),
    )
