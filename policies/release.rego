# May this be delivered now? Asked by the gate before every irreversible capability (threats 6.7).
#
# input: {"now_ms", "resuming", "tenant_id", "session_id",
#         "request": {"approval_id", "action_digest", "repository", "commit_id", "expected_head", "target_ref", "mode", "session_id"},
#         "approval": {"approval_id", "status", "action_digest", "computed_digest", "deliver_by_ms", "action": {…}}}
# resuming: an earlier attempt of the same effect began in time; it must be able to read back what it did.
package gen4.release

decision := {"required": required, "passed": passed, "findings": findings}

required contains name if some name in data.required.release

passed contains "release.redeemed" if {
	input.approval.status == "redeemed"
	input.approval.approval_id == input.request.approval_id
}

passed contains "release.digest" if {
	input.approval.action_digest == input.request.action_digest
	input.approval.computed_digest == input.request.action_digest
}

passed contains "release.action" if {
	input.approval.action.verb == "deliver"
	every field in ["repository", "commit_id", "expected_head", "target_ref", "mode"] {
		input.approval.action[field] == input.request[field]
	}
	input.request.mode in data.release.modes
}

passed contains "release.session" if {
	input.approval.action.session_id == input.session_id
	input.request.session_id == input.session_id
	input.approval.action.tenant_id == input.tenant_id
}

passed contains "release.in_time" if {
	is_number(input.approval.deliver_by_ms)
	input.now_ms < input.approval.deliver_by_ms
}

passed contains "release.in_time" if {
	is_number(input.approval.deliver_by_ms)
	input.resuming == true
}

findings contains {"rule_id": "release.redeemed", "message": message} if {
	message := sprintf("the approval is %v, not redeemed", [input.approval.status])
}

findings contains {"rule_id": "release.digest", "message": message} if {
	message := "the action_digest is not that of the approved action"
}

findings contains {"rule_id": "release.action", "message": message} if {
	some field in ["repository", "commit_id", "expected_head", "target_ref", "mode"]
	input.approval.action[field] != input.request[field]
	message := sprintf("%v differs from the approved action", [field])
}

findings contains {"rule_id": "release.session", "message": message} if {
	message := "the approval belongs to another session or tenant"
}

findings contains {"rule_id": "release.in_time", "message": message} if {
	message := "the time to deliver is over; start a new remediation"
}
