package gen4.metrics_test

import data.gen4.metrics

passed(measured) := decision.passed if decision := metrics.decision with input as {"metrics": measured}

all := {"metrics.required", "metrics.no_failure"}

test_tests_pass if passed([{"name": "tests", "verdict": "pass"}]) == all

test_required if {
	decision := metrics.decision with input as {"metrics": []}
	decision.required == all
}

test_more_may_be_measured if passed([{"name": "tests", "verdict": "pass"}, {"name": "coverage", "verdict": "pass"}]) == all

test_nothing_measured if passed([]) == set()

test_tests_not_measured if passed([{"name": "coverage", "verdict": "pass"}]) == {"metrics.no_failure"}

test_tests_fail if passed([{"name": "tests", "verdict": "fail"}]) == set()

test_tests_inconclusive if passed([{"name": "tests", "verdict": "inconclusive"}]) == set()

test_another_metric_fails if {
	passed([{"name": "tests", "verdict": "pass"}, {"name": "cost", "verdict": "fail"}]) == {"metrics.required"}
}

test_contradiction if passed([{"name": "tests", "verdict": "pass"}, {"name": "tests", "verdict": "fail"}]) == {"metrics.required"}

test_unknown_metric if {
	passed([{"name": "tests", "verdict": "pass"}, {"name": "vibes", "verdict": "pass"}]) == {"metrics.required"}
}

test_no_requirement_is_no_pass if {
	decision := metrics.decision with input as {"metrics": [{"name": "tests", "verdict": "pass"}]} with data.metrics.required as []
	decision.passed == {"metrics.no_failure"}
}

test_an_empty_question_passes_nothing if {
	decision := metrics.decision with input as {}
	decision.passed == set()
}

test_reasons_are_given if {
	decision := metrics.decision with input as {"metrics": [{"name": "tests", "verdict": "fail"}]}
	{finding.message | some finding in decision.findings} == {"metric tests: fail", "required and measured as pass: tests"}
}
