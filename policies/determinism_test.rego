package gen4.determinism_test

import data.gen4.determinism

passed(reused, fresh) := decision.passed if {
	decision := determinism.decision with input as {"reused": reused} with data.determinism.fresh_rerun as fresh
}

test_a_rerun_done_anew if {
	passed(false, true) == {"determinism.rerun"}
	passed(false, false) == {"determinism.rerun"}
}

test_a_recalled_rerun_where_the_policy_takes_it if passed(true, false) == {"determinism.rerun"}

test_a_recalled_rerun_where_it_must_be_fresh if passed(true, true) == set()

test_the_rule_is_required if {
	decision := determinism.decision with input as {"reused": false}
	decision.required == {"determinism.rerun"}
}

test_an_empty_question_passes_nothing if {
	decision := determinism.decision with input as {}
	decision.passed == set()
}

test_without_data_nothing_is_reused if {
	decision := determinism.decision with input as {"reused": true} with data.determinism as {}
	decision.passed == set()
}
