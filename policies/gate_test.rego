package gen4.gate_test

import data.gen4.catalogue
import data.gen4.gate

ask(phase, parent, capability) := decision if {
	decision := gate.decision with input as {"phase": phase, "parent": parent, "capability": capability}
}

test_control_may_seal if ask("control", "none", "forge.seal_commit").passed == {"gate.phase", "gate.lineage"}

test_required_is_what_the_data_lists if {
	ask("control", "none", "x").required == {"gate.descriptor", "gate.phase", "gate.lineage"}
}

listed(capability) := {"phase": "control", "parent": "none", "capability": capability, "descriptor_sha256": catalogue.descriptors[capability]}

test_what_the_catalogue_lists_passes_whole if {
	decision := gate.decision with input as listed("forge.seal_commit")
	decision.passed == decision.required
	decision.passed == {"gate.descriptor", "gate.phase", "gate.lineage"}
}

test_a_changed_descriptor_does_not_pass if {
	every sha256 in ["", "0000", catalogue.descriptors["forge.deliver"]] {
		decision := gate.decision with input as object.union(listed("forge.seal_commit"), {"descriptor_sha256": sha256})
		decision.passed == {"gate.phase", "gate.lineage"}
		some finding in decision.findings
		finding.rule_id == "gate.descriptor"
	}
}

test_compile_may_not_explore if ask("compile", "none", "explore.repair").passed == {"gate.lineage"}

test_release_may_not_start_itself if ask("release", "none", "forge.deliver").passed == {"gate.phase"}

test_release_of_a_remediation_may_deliver if ask("release", "control", "forge.deliver").passed == {"gate.phase", "gate.lineage"}

test_only_release_delivers if {
	every phase in ["control", "explore", "compile"] {
		ask(phase, "none", "forge.deliver").passed - {"gate.lineage"} == set()
	}
}

test_compile_needs_no_parent if ask("compile", "none", "policy.review_patch").passed == {"gate.phase", "gate.lineage"}

test_an_unknown_phase_may_nothing if ask("root", "none", "forge.deliver").passed == set()

test_an_unknown_capability_is_for_nobody if ask("control", "none", "forge.Deliver").passed == {"gate.lineage"}

test_an_empty_question_passes_nothing if {
	decision := gate.decision with input as {}
	decision.passed == set()
}

test_reasons_are_given if {
	some finding in ask("compile", "none", "explore.repair").findings
	finding == {"rule_id": "gate.phase", "message": "a workflow of phase compile may not use explore.repair"}
}

test_known_names_every_capability_of_every_phase if {
	gate.known["forge.deliver"] == catalogue.descriptors["forge.deliver"]
	gate.known["explore.repair"] == catalogue.descriptors["explore.repair"]
	count(gate.known) > 20
}
