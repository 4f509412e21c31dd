// What the error memory holds, whether it speaks, what it is worth, and what came back.

import { getJson, getText } from "./api.js";
import { line } from "./charts.js";
import { copyable, count, empty, failure, h, percent, replace } from "./dom.js";
import { table } from "./models.js";

const EVERY_MS = 2000;
const KEPT = 900; // half an hour
const INFLUENTIAL = 8;

export function view(panel) {
  const body = h("div", { class: "stack" });
  replace(panel, h("div", { class: "bar" }, h("h2", {}, "Memory")), body);
  const seen = new Map(); // version → [[seconds, excess loss, entries]]
  let timer = null;
  let drawn = "";

  async function refresh() {
    try {
      const { memories } = await getJson("/v1/memory");
      // Metrics may need a wider key than the memory does: without them the page lacks one table.
      const metrics = await getText("/metrics").then(parsed, () => new Map());
      for (const each of memories) {
        if (!seen.has(each.version)) seen.set(each.version, []);
        const points = seen.get(each.version);
        points.push([Date.now() / 1000, each.excess_loss, each.written]);
        points.splice(0, points.length - KEPT);
      }
      draw(memories, metrics);
    } catch (problem) {
      drawn = "";
      replace(body, h("div", { class: "card" }, failure(problem, refresh)));
    }
  }

  function draw(memories, metrics) {
    const outcomes = (metrics.get("errata_outcomes_total") ?? []).filter((each) => each.value);
    const mark = JSON.stringify([memories, outcomes]);
    if (mark === drawn) return;
    drawn = mark;
    replace(body,
      memories.map((each) => memory(each)),
      outcomes.length > 0 && h("div", { class: "card" }, h("h3", {}, "Outcomes of what was served"),
        table(["Version", "Outcome", "Times"], outcomes.map((each) => [
          h("span", { class: "mono" }, each.labels.version), each.labels.type, count(each.value)]))));
  }

  function memory(each) {
    const title = h("div", { class: "row between" }, h("h3", {}, "Recommender ", h("span", { class: "mono" }, each.version)), h("span", { class: `tag${each.gate_open && each.enabled ? " serving" : ""}` }, state(each)));
    if (!each.written) {
      return h("div", { class: "card" }, title, empty("Nothing is remembered yet",
        "Between two trainings the service learns from outcomes. Choose a user under Recommend and click or dismiss something: what the model got wrong becomes an entry here.",
        "errata memory stats"));
    }
    const points = seen.get(each.version) ?? [];
    const helps = each.excess_loss < 0;
    const weights = Object.entries(each.weights).sort((a, b) => b[1] - a[1]).slice(0, INFLUENTIAL);
    return h("div", { class: "card" }, title,
      h("dl", { class: "figures inner" }, [
        ["entries kept", count(each.entries)], ["outcomes counted", count(each.written)],
        ["of its room", percent(each.entries / each.capacity)], ["in memory", `${(each.bytes / 1e6).toFixed(1)} MB`],
        ["log loss, corrected − model", `${each.excess_loss > 0 ? "+" : each.excess_loss < 0 ? "−" : ""}${Math.abs(each.excess_loss).toFixed(4)}`],
      ].map(([name, value]) => h("div", { class: "figure" }, h("dt", {}, name), h("dd", {}, value)))),
      h("p", { class: "how" }, each.excess_loss === 0 ? "Too little is known yet to say what the corrections are worth."
        : each.gate_open ? `Corrections are applied; lately they made the answers ${helps ? "better" : "worse"}.`
          : `It only watches: the model's own word stands until the corrections have proved themselves over enough outcomes. Lately they would have made the answers ${helps ? "better" : "worse"}.`,
      !each.enabled && " The memory was switched off: errata memory on."),
      h("div", { class: "two flat" },
        h("div", {}, h("h3", {}, "Corrected minus the model, while this page is open"),
          points.length > 1 ? line(points.map(([t, excess]) => [t, excess]), { unit: (value) => value.toFixed(3), said: `Excess log loss over time, now ${each.excess_loss.toFixed(4)}; below zero is good` })
            : h("p", { class: "none" }, "A line is drawn as outcomes come in.")),
        h("div", {}, h("h3", {}, "Who is listened to"),
          h("ul", { class: "weights" }, weights.map(([name, share]) => h("li", {}, h("span", {}, name === "base" ? "the model itself" : name.replaceAll("_", " ")), h("span", { class: "meter" }, h("i", { class: name === "base" ? "fb" : "fr", style: { width: `${100 * share}%` } })), h("small", {}, percent(share))))))),
      h("details", {}, h("summary", {}, "Look into it, and undo"),
        h("div", { class: "stack tight" }, ["errata memory tail", "errata memory explain PREDICTION_ID", "errata memory forget --where source=USER", each.enabled ? "errata memory off" : "errata memory on"].map((command) => h("div", {}, copyable(command))))));
  }

  const state = (each) => !each.enabled ? "switched off" : each.gate_open ? "corrects" : "watches";

  return {
    shown: () => { refresh(); timer ??= setInterval(() => { if (!document.hidden) refresh(); }, EVERY_MS); },
    left: () => { clearInterval(timer); timer = null; },
  };
}

// Prometheus's text format: name → [{labels, value}]
export function parsed(text) {
  const found = new Map();
  for (const each of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(each);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((pair) => [pair[1], pair[2]]));
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value: Number(match[3]) });
  }
  return found;
}
