# Are the metrics that the Regression Gate measured enough, and does somebody who may answer for what got worse?
# One that was not measured is absent, never assumed. Who waives until when is judged at the time of the decision.
#
# input: {"metrics": [{"name", "verdict", "waived"}], "waivers": [{"id", "metric", "owner", "expires_at_s"}], "now_s"}
package gen4.metrics

decision := {"required": required, "passed": passed, "findings": findings}

required contains name if some name in data.required.metrics

measured contains metric.name if some metric in input.metrics

missing := {name | some name in data.metrics.required} - measured

passed contains "metrics.required" if {
	count(data.metrics.required) > 0
	count(missing) == 0
}

passed contains "metrics.no_failure" if {
	count(input.metrics) > 0
	every metric in input.metrics {
		metric.name in data.metrics.known
		good_enough(metric)
	}
}

passed contains "metrics.waivers" if {
	every waiver in input.waivers {
		may_waive(waiver.owner)
		waiver.expires_at_s > input.now_s
	}
}

good_enough(metric) if metric.verdict == "pass"

good_enough(metric) if {
	metric.verdict == "fail"
	metric.waived == true
	some waiver in input.waivers
	waiver.metric == metric.name
}

may_waive(owner) if {
	trim_space(owner) != ""
	count(data.waivers.owners) == 0
}

may_waive(owner) if owner in data.waivers.owners

findings contains {"rule_id": "metrics.required", "message": message} if {
	count(data.metrics.required) > 0
	message := sprintf("required and not measured: %v", [concat(", ", missing)])
}

findings contains {"rule_id": "metrics.no_failure", "message": message} if {
	some metric in ({metric | some metric in input.metrics} - {metric | some metric in input.metrics; good_enough(metric)})
	message := sprintf("metric %v: %v", [metric.name, metric.verdict])
}

findings contains {"rule_id": "metrics.waivers", "message": message} if {
	some waiver in ({waiver | some waiver in input.waivers} - {waiver | some waiver in input.waivers; may_waive(waiver.owner)})
	message := sprintf("waiver %v: %v may not waive", [waiver.id, waiver.owner])
}

findings contains {"rule_id": "metrics.waivers", "message": message} if {
	some waiver in input.waivers
	waiver.expires_at_s <= input.now_s
	message := sprintf("waiver %v has expired", [waiver.id])
}
