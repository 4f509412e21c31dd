// What came back, and what it changed.

import { getText } from "./api.js";
import { count, empty, failure, h, replace } from "./dom.js";
import { table } from "./models.js";

const EVERY_MS = 2000;

export function view(panel) {
  const body = h("div", { class: "stack" });
  replace(panel, h("div", { class: "bar" }, h("h2", {}, "Memory")), body);
  let timer = null;

  async function refresh() {
    try {
      draw(parsed(await getText("/metrics")));
    } catch (problem) {
      replace(body, h("div", { class: "card" }, failure(problem, refresh)));
    }
  }

  function draw(metrics) {
    const feedback = metrics.get("errata_feedback_total") ?? [];
    const outcomes = metrics.get("errata_outcomes_total") ?? [];
    const total = feedback.reduce((sum, each) => sum + each.value, 0);
    if (!total) {
      replace(body, h("div", { class: "card" }, empty(
        "Nothing has come back yet",
        "Between two trainings the service learns from outcomes: what users clicked and dismissed. Click or dismiss something under Recommend, or send feedback.",
        "curl -s http://127.0.0.1:8000/v1/feedback -H 'content-type: application/json' -d '{\"user_id\": \"1\", \"item_id\": \"50\", \"type\": \"click\"}'")));
      return;
    }
    replace(body,
      h("dl", { class: "figures" }, feedback.filter((each) => each.value).map((each) =>
        h("div", { class: "figure" }, h("dt", {}, `feedback ${each.labels.status}`), h("dd", {}, count(each.value))))),
      outcomes.length > 0 && h("div", { class: "card" }, h("h3", {}, "Outcomes of what was served"),
        table(["Version", "Outcome", "Times"], outcomes.map((each) => [
          h("span", { class: "mono" }, each.labels.version), each.labels.type ?? each.labels.kind ?? "", count(each.value)]))));
  }

  return {
    shown: () => { refresh(); timer ??= setInterval(() => { if (!document.hidden) refresh(); }, EVERY_MS); },
    left: () => { clearInterval(timer); timer = null; },
  };
}

// Prometheus's text format: name → [{labels, value}]
export function parsed(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((each) => [each[1], each[2]]));
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value: Number(match[3]) });
  }
  return found;
}
