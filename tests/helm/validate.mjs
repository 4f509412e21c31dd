// Reads resources as JSON on standard input, writes a list of what is wrong with them.
import { readFileSync } from "node:fs";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

const models = { PodMonitor, PrometheusRule, ScaledObject, ServiceMonitor };
const problems = [];
for (const resource of JSON.parse(readFileSync(0))) {
  const name = `${resource.kind} ${resource.metadata?.name}`;
  try {
    if (!(resource.kind in models)) throw new Error("no schema is known");
    new models[resource.kind](resource).validate();
  } catch (error) {
    problems.push(`${name}: ${error.message}`);
  }
}
console.log(JSON.stringify(problems));
