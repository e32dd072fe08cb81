# Is this request admitted? Asked once at intake.
#
# input: {"repository": {"kind", "plain", "admitted"}, "ref", "release": {"mode", "target"}, "limits": {"wall_ms", "candidates"},
#   "budget": {unit: amount}}, of which only what the request names
# kind: "path" or the scheme of the URL; plain: printable, no option, no helper syntax; admitted: under the operator's
# roots, or a host that the operator lists. mode and target: "none" where the request has none.
package gen4.request

decision := {"required": required, "passed": passed, "findings": findings}

required contains name if some name in data.required.request

passed contains "request.repository" if {
	input.repository.plain == true
	input.repository.admitted == true
	input.repository.kind in known_kinds
}

passed contains "request.ref" if sane_ref(input.ref)

passed contains "request.release" if {
	input.release.mode in data.release.modes
	input.release.target == "none"
}

passed contains "request.release" if {
	input.release.mode == "merge"
	sane_branch(input.release.target)
}

# A Compile that CI starts releases nothing.
passed contains "request.release" if {
	input.release.mode == "none"
	input.release.target == "none"
}

passed contains "request.limits" if {
	input.limits.wall_ms <= data.limits.request.wall_ms
	input.limits.candidates <= data.limits.request.candidates
}

passed contains "request.budget" if {
	every unit, amount in input.budget {
		amount <= data.ledger.limits[unit]
	}
}

known_kinds contains "path"

known_kinds contains scheme if some scheme in data.repository.remote_schemes

# What git-check-ref-format accepts, less: one line of ordinary characters, never an option, a range or an expression.
sane_ref(ref) if {
	count(ref) <= data.ref.max_length
	regex.match(`^[A-Za-z0-9_][A-Za-z0-9_+.#@=,%-]*(/[A-Za-z0-9_+#@=,%-][A-Za-z0-9_+.#@=,%-]*)*$`, ref)
	contains(ref, "..") == false
	endswith(ref, ".") == false
	endswith(ref, ".lock") == false
	contains(ref, ".lock/") == false
}

sane_branch(name) if {
	sane_ref(name)
	count({name} & {"HEAD", "FETCH_HEAD", "ORIG_HEAD", "MERGE_HEAD"}) == 0
	branch_or_bare(name)
}

branch_or_bare(name) if startswith(name, "refs/heads/")

branch_or_bare(name) if startswith(name, "refs/") == false

findings contains {"rule_id": "request.repository", "message": message} if {
	message := concat(" ", [
		"the repository must be an absolute path under a root that the operator lists (GEN4_REPOSITORY_ROOTS),",
		"or an https or ssh URL without password of a host that the operator lists (GEN4_REPOSITORY_HOSTS)",
	])
}

findings contains {"rule_id": "request.ref", "message": message} if {
	message := "ref must be HEAD, the name of a branch or tag, or a commit id"
}

findings contains {"rule_id": "request.limits", "message": message} if {
	message := sprintf("at most %v ms of Explore and %v candidates", [data.limits.request.wall_ms, data.limits.request.candidates])
}

findings contains {"rule_id": "request.budget", "message": message} if {
	most := [sprintf("%v %v", [amount, unit]) | some unit, amount in data.ledger.limits]
	message := sprintf("BUDGET_ABOVE_POLICY: a session may ask for at most %v", [concat(", ", most)])
}

findings contains {"rule_id": "request.release", "message": message} if {
	message := sprintf("release mode must be one of %v; only merge takes a target, the name of a branch", [concat(", ", data.release.modes)])
}
