# Are the metrics that the Regression Gate measured enough? One that was not measured is absent, never assumed.
#
# input: {"metrics": [{"name", "verdict"}]}
package gen4.metrics

decision := {"required": required, "passed": passed, "findings": findings}

required contains name if some name in data.required.metrics

passed contains "metrics.required" if {
	count(data.metrics.required) > 0
	every name in data.metrics.required {
		{"name": name, "verdict": "pass"} in input.metrics
	}
}

passed contains "metrics.no_failure" if {
	count(input.metrics) > 0
	every metric in input.metrics {
		metric.name in data.metrics.known
		metric.verdict == "pass"
	}
}

findings contains {"rule_id": "metrics.required", "message": message} if {
	message := sprintf("required and measured as pass: %v", [concat(", ", data.metrics.required)])
}

findings contains {"rule_id": "metrics.no_failure", "message": message} if {
	some metric in input.metrics
	metric.verdict != "pass"
	message := sprintf("metric %v: %v", [metric.name, metric.verdict])
}
