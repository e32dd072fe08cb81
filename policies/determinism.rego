# Is a re-run enough that came from the run cache? Whether it must be done anew is data.
#
# input: {"reused": bool}
package gen4.determinism

decision := {"required": required, "passed": passed, "findings": findings}

required contains name if some name in data.required.determinism

passed contains "determinism.rerun" if input.reused == false

passed contains "determinism.rerun" if {
	input.reused == true
	data.determinism.fresh_rerun == false
}

findings contains {"rule_id": "determinism.rerun", "message": message} if {
	message := "a re-run that was recalled from the run cache is none under this policy"
}
