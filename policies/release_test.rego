package gen4.release_test

import data.gen4.release

action := {
	"verb": "deliver", "repository": "/r", "commit_id": "c", "expected_head": "h", "target_ref": "refs/heads/x", "mode": "branch",
	"session_id": "s", "tenant_id": "t",
}

good := {
	"now_ms": 1000, "resuming": false, "tenant_id": "t", "session_id": "s",
	"request": {
		"approval_id": "a", "action_digest": "d", "repository": "/r", "commit_id": "c", "expected_head": "h",
		"target_ref": "refs/heads/x", "mode": "branch", "session_id": "s",
	},
	"approval": {
		"approval_id": "a", "status": "redeemed", "action_digest": "d", "computed_digest": "d", "deliver_by_ms": 2000,
		"action": action,
	},
}

all := {"release.redeemed", "release.digest", "release.action", "release.session", "release.in_time"}

passed(changes) := decision.passed if decision := release.decision with input as object.union(good, changes)

test_good if passed({}) == all

test_required if {
	decision := release.decision with input as {}
	decision.required == all
}

test_any_other_status if {
	every status in ["pending", "approved", "rejected", "expired", "revoked", "cancelled", ""] {
		passed({"approval": {"status": status}}) == all - {"release.redeemed"}
	}
}

test_approval_of_another_id if passed({"approval": {"approval_id": "b"}}) == all - {"release.redeemed"}

test_digest_asked_for_differs if passed({"request": {"action_digest": "e"}}) == all - {"release.digest"}

test_stored_action_does_not_have_the_digest if passed({"approval": {"computed_digest": "e"}}) == all - {"release.digest"}

test_each_field_of_the_action if {
	every field in ["repository", "commit_id", "expected_head", "target_ref"] {
		passed({"request": {field: "other"}}) == all - {"release.action"}
	}
}

test_other_mode if passed({"request": {"mode": "merge"}}) == all - {"release.action"}

test_unknown_mode if {
	passed({"request": {"mode": "force"}, "approval": {"action": {"mode": "force"}}}) == all - {"release.action"}
}

test_other_verb if passed({"approval": {"action": {"verb": "delete"}}}) == all - {"release.action"}

test_other_session_acts if passed({"session_id": "z"}) == all - {"release.session"}

test_request_names_other_session if passed({"request": {"session_id": "z"}}) == all - {"release.session"}

test_other_tenant if passed({"tenant_id": "z"}) == all - {"release.session"}

test_at_the_deadline if passed({"now_ms": 2000}) == all - {"release.in_time"}

test_late_but_resuming if passed({"now_ms": 2000, "resuming": true}) == all

test_never_redeemed_has_no_deadline if {
	passed({"approval": {"deliver_by_ms": null, "status": "approved"}}) == all - {"release.redeemed", "release.in_time"}
}

test_resuming_does_not_replace_a_deadline if {
	passed({"approval": {"deliver_by_ms": null}, "resuming": true}) == all - {"release.in_time"}
}

test_an_empty_question_passes_nothing if {
	decision := release.decision with input as {}
	decision.passed == set()
}

test_reasons_are_given if {
	decision := release.decision with input as object.union(good, {"request": {"commit_id": "z"}})
	some finding in decision.findings
	finding == {"rule_id": "release.action", "message": "commit_id differs from the approved action"}
}

test_every_rule_has_a_reason if {
	decision := release.decision with input as object.union(good, {"request": {"commit_id": "z"}})
	{finding.rule_id | some finding in decision.findings} == all
}
