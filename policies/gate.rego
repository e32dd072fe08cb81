# May this phase use this capability? Asked by the gate before every activity.
#
# input: {"phase", "parent" (phase of the parent workflow, "none" for a root), "capability", "descriptor_sha256", "role"}
package gen4.gate

decision := {"required": required, "passed": passed, "findings": findings}

required contains name if some name in data.required.gate

passed contains "gate.phase" if input.capability in data.phases[input.phase].capabilities

passed contains "gate.lineage" if input.parent in data.phases[input.phase].parents

passed contains "gate.descriptor" if input.descriptor_sha256 == data.gen4.catalogue.descriptors[input.capability]

findings contains {"rule_id": "gate.descriptor", "message": message} if {
	message := sprintf("%v is not what the catalogue lists under this name", [input.capability])
}

findings contains {"rule_id": "gate.phase", "message": message} if {
	message := sprintf("a workflow of phase %v may not use %v", [input.phase, input.capability])
}

findings contains {"rule_id": "gate.lineage", "message": message} if {
	message := sprintf("phase %v may not be started by %v", [input.phase, input.parent])
}

# Every capability that some phase may use, with its descriptor: a worker refuses to start with one that is not named here.
known[name] := descriptor if {
	some name in data.phases[_].capabilities
	descriptor := data.gen4.catalogue.descriptors[name]
}
