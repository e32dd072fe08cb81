package gen4.metrics_test

import data.gen4.metrics

passed(measured) := decided(measured, [])

decided(measured, waivers) := decision.passed if {
	decision := metrics.decision with input as {"metrics": measured, "waivers": waivers, "now_s": 1000}
}

all := {"metrics.required", "metrics.no_failure", "metrics.waivers"}

tests_pass := {"name": "tests", "verdict": "pass", "waived": false}

slow(waived) := {"name": "performance", "verdict": "fail", "waived": waived}

waiver(metric) := {"id": "w", "metric": metric, "owner": "alice", "expires_at_s": 1001}

test_tests_pass if passed([tests_pass]) == all

test_required if {
	decision := metrics.decision with input as {"metrics": []}
	decision.required == all
}

test_more_may_be_measured if passed([tests_pass, {"name": "coverage", "verdict": "pass", "waived": false}]) == all

test_nothing_measured if passed([]) == {"metrics.waivers"}

test_tests_not_measured if {
	passed([{"name": "coverage", "verdict": "pass"}]) == {"metrics.no_failure", "metrics.waivers"}
}

test_tests_fail if passed([{"name": "tests", "verdict": "fail", "waived": false}]) == {"metrics.required", "metrics.waivers"}

test_tests_inconclusive if {
	passed([{"name": "tests", "verdict": "inconclusive", "waived": true}]) == {"metrics.required", "metrics.waivers"}
}

test_another_metric_fails if passed([tests_pass, slow(false)]) == {"metrics.required", "metrics.waivers"}

test_contradiction if {
	passed([tests_pass, {"name": "tests", "verdict": "fail", "waived": false}]) == {"metrics.required", "metrics.waivers"}
}

test_unknown_metric if {
	passed([tests_pass, {"name": "vibes", "verdict": "pass", "waived": false}]) == {"metrics.required", "metrics.waivers"}
}

test_no_requirement_is_no_pass if {
	question := {"metrics": [tests_pass], "waivers": [], "now_s": 0}
	decision := metrics.decision with input as question with data.metrics.required as []
	decision.passed == {"metrics.no_failure", "metrics.waivers"}
}

test_an_empty_question_passes_nothing if {
	decision := metrics.decision with input as {}
	decision.passed == set()
}

test_a_waived_failure if decided([tests_pass, slow(true)], [waiver("performance")]) == all

test_a_failure_that_only_says_it_is_waived if {
	decided([tests_pass, slow(true)], []) == {"metrics.required", "metrics.waivers"}
}

test_a_waiver_for_something_else if {
	decided([tests_pass, slow(true)], [waiver("coverage")]) == {"metrics.required", "metrics.waivers"}
}

test_a_failure_that_its_waiver_does_not_cover if {
	decided([tests_pass, slow(false)], [waiver("performance")]) == {"metrics.required", "metrics.waivers"}
}

test_an_expired_waiver if {
	late := object.union(waiver("performance"), {"expires_at_s": 1000})
	decided([tests_pass, slow(true)], [late]) == {"metrics.required", "metrics.no_failure"}
}

test_a_waiver_of_nobody if {
	nobody := object.union(waiver("performance"), {"owner": " "})
	decided([tests_pass, slow(true)], [nobody]) == {"metrics.required", "metrics.no_failure"}
}

test_owners_may_be_listed if {
	question := {"metrics": [tests_pass, slow(true)], "waivers": [waiver("performance")], "now_s": 1000}
	yes := metrics.decision with input as question with data.waivers.owners as ["alice"]
	no := metrics.decision with input as question with data.waivers.owners as ["bob"]
	yes.passed == all
	no.passed == {"metrics.required", "metrics.no_failure"}
}

test_reasons_are_given if {
	question := {"metrics": [slow(false)], "waivers": [], "now_s": 0}
	decision := metrics.decision with input as question
	{finding.message | some finding in decision.findings} == {"metric performance: fail", "required and not measured: tests"}
}
