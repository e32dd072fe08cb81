package gen4.request_test

import data.gen4.request

good := {
	"repository": {"kind": "path", "plain": true, "admitted": true},
	"ref": "main",
	"release": {"mode": "branch", "target": "none"},
	"limits": {"wall_ms": 1800000, "candidates": 3},
	"budget": {},
}

all := {"request.budget", "request.limits", "request.repository", "request.ref", "request.release"}

passed(changes) := decision.passed if decision := request.decision with input as object.union(good, changes)

test_good_request if passed({}) == all

test_required if {
	decision := request.decision with input as good
	decision.required == all
}

test_https_of_a_listed_host if passed({"repository": {"kind": "https"}}) == all

test_ssh_of_a_listed_host if passed({"repository": {"kind": "ssh"}}) == all

test_other_schemes if {
	every kind in ["http", "file", "git", "ext", "ftp", ""] {
		passed({"repository": {"kind": kind}}) == all - {"request.repository"}
	}
}

test_outside_the_roots if passed({"repository": {"admitted": false}}) == all - {"request.repository"}

test_not_plain if passed({"repository": {"plain": false}}) == all - {"request.repository"}

test_refs_that_pass if {
	every ref in ["HEAD", "main", "refs/heads/a/b", "v1.2.3", "feature/x_y-z", "0123456789abcdef0123456789abcdef01234567", "a#1", "renovate/npm-@types/node"] {
		passed({"ref": ref}) == all
	}
}

test_refs_that_do_not_pass if {
	every ref in [
		"", "-x", "--upload-pack=x", "a..b", "a b", "a~1", "a^", "a:b", "@{-1}", "a.lock", "a/b.lock/c", "/a", "a/", "a//b", "a.",
		".a", "a/.b", "a\nb", "a\u202eb", "a/-x\\", "*", "ä", concat("", ["a" | some i in numbers.range(1, 256); i > 0]),
	] {
		passed({"ref": ref}) == all - {"request.ref"}
	}
}

test_merge_without_target if passed({"release": {"mode": "merge"}}) == all

test_merge_into_a_branch if passed({"release": {"mode": "merge", "target": "main"}}) == all

test_merge_into_a_full_name if passed({"release": {"mode": "merge", "target": "refs/heads/main"}}) == all

test_merge_into_what_is_no_branch if {
	every target in ["HEAD", "FETCH_HEAD", "refs/tags/v1", "refs/pull/1/head", "-f", "a..b", "+main:main"] {
		passed({"release": {"mode": "merge", "target": target}}) == all - {"request.release"}
	}
}

test_branch_takes_no_target if passed({"release": {"mode": "branch", "target": "main"}}) == all - {"request.release"}

test_no_release_at_all if passed({"release": {"mode": "none"}}) == all

test_no_mode_but_a_target if passed({"release": {"mode": "none", "target": "main"}}) == all - {"request.release"}

test_unknown_mode if passed({"release": {"mode": "force"}}) == all - {"request.release"}

test_an_empty_question_passes_nothing if {
	decision := request.decision with input as {}
	decision.passed == set()
}

test_reasons_are_given if {
	decision := request.decision with input as good
	{finding.rule_id | some finding in decision.findings} == all
}

test_limits_up_to_those_of_policy if {
	passed({"limits": data.limits.request}) == all
	passed({"limits": {"wall_ms": 0, "candidates": 0}}) == all
}

test_limits_above_policy if {
	passed({"limits": {"wall_ms": data.limits.request.wall_ms + 1}}) == all - {"request.limits"}
	passed({"limits": {"candidates": data.limits.request.candidates + 1}}) == all - {"request.limits"}
	passed({"limits": {"wall_ms": "long"}}) == all - {"request.limits"}
}

test_budgets_up_to_those_of_policy if {
	passed({"budget": data.ledger.limits}) == all
	passed({"budget": {"micros": 1}}) == all
}

test_budgets_above_policy if {
	every unit, most in data.ledger.limits {
		passed({"budget": {unit: most + 1}}) == all - {"request.budget"}
	}
	passed({"budget": {"micros": 1, "tokens": data.ledger.limits.tokens + 1}}) == all - {"request.budget"}
	passed({"budget": {"favours": 1}}) == all - {"request.budget"}
	passed({"budget": {"micros": "much"}}) == all - {"request.budget"}
}
