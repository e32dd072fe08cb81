package system.authz_test

import data.system.authz

token := "secret"

ask(method, path, identity) := allowed if {
	allowed := authz.allow with input as {"method": method, "path": path, "identity": identity}
		with data.credentials as {"token_sha256": crypto.sha256(token)}
}

decision := ["v1", "data", "gen4", "patch", "decision"]

test_a_decision if ask("POST", decision, token)

test_health_without_token if {
	authz.allow with input as {"method": "GET", "path": ["health"]}
}

test_wrong_token if ask("POST", decision, "other") == false

test_no_token if {
	allowed := authz.allow with input as {"method": "POST", "path": decision}
		with data.credentials as {"token_sha256": crypto.sha256(token)}
	allowed == false
}

test_no_credentials_loaded if {
	allowed := authz.allow with input as {"method": "POST", "path": decision, "identity": token}
	allowed == false
}

test_no_policy_is_written if ask("PUT", ["v1", "policies", "x"], token) == false

test_no_data_is_written if {
	every method in ["PUT", "PATCH", "DELETE", "GET"] {
		ask(method, decision, token) == false
	}
}

test_nothing_else_is_read if {
	every path in [
		["v1", "data"], ["v1", "data", "credentials"], ["v1", "data", "system", "authz", "allow"], ["v1", "query"], ["v1", "compile"],
		["v0", "data", "gen4", "patch", "decision"], [], ["v1", "data", "gen4", "patch"], ["v1", "data", "gen4/patch/decision"],
	] {
		ask("POST", path, token) == false
	}
}
