// What each error memory holds, whether it speaks, what it is worth over time, and its loudest
// entries.

import { getJson, send } from "./api.js";
import { beforeAndAfter } from "./charts.js";
import { ago, confirmed, copyable, count, empty, failure, h, percent, replace } from "./dom.js";
import { table } from "./models.js";

const EVERY_MS = 2000;
const LISTENED_TO = 6;
const LOUDEST = 8;
const TITLES = { recommender: "Recommender", traffic: "Traffic classifier" };
const TEACH = {
  recommender: "Between two trainings the service learns from outcomes. Choose a user under Recommend and click or dismiss something: what the model got wrong becomes an entry here.",
  traffic: "Between two trainings the classifier learns from labels. Classify a capture under Traffic, choose a flow and say what it really was: what the model got wrong becomes an entry here.",
};

export function view(panel) {
  const body = h("div", { class: "stack" });
  replace(panel, h("div", { class: "bar" }, h("h2", {}, "Memory"),
    h("p", { class: "how" }, "What the models got wrong since they were trained, and how that corrects the next answer.")), body);
  let timer = null;
  let drawn = "";

  async function refresh() {
    try {
      const { memories } = await getJson("/v1/memory");
      const found = await Promise.all(memories.map(async (each) => {
        if (!each.written) return { each, course: { points: [], retrained: [] }, entries: [] };
        const of = `/v1/memory/${each.model}`;
        const [course, { entries }] = await Promise.all([
          getJson(`${of}/course?version=${each.version}`).catch(() => ({ points: [], retrained: [] })),
          getJson(`${of}/entries?version=${each.version}&k=${LOUDEST}`)]);
        return { each, course, entries };
      }));
      draw(found);
    } catch (problem) {
      drawn = "";
      replace(body, h("div", { class: "card" }, failure(problem, refresh)));
    }
  }

  function draw(found) {
    const mark = JSON.stringify(found);
    // Nothing is redrawn under somebody's hands.
    if (mark === drawn || (drawn && document.querySelector("dialog[open]"))) return;
    const focus = body.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const opened = new Set([...body.querySelectorAll("details[open]")].map((each) => each.dataset.key));
    drawn = mark;
    replace(body, found.length ? found.map((each) => memory(each)) : h("div", { class: "card" },
      empty("No version serves yet", "A memory belongs to a version that serves. Train one and promote it.", "errata train recommender --data DIR --promote")));
    for (const each of body.querySelectorAll("details")) each.open = opened.has(each.dataset.key);
    if (focus) body.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus();
  }

  function memory({ each, course, entries }) {
    const name = TITLES[each.model] ?? each.model;
    const several = each.title !== "default" && each.title !== each.model;
    const title = h("div", { class: "row between wrap" },
      h("h3", { class: "model" }, name, several && ` · ${each.title}`, " ", h("span", { class: "mono" }, each.version)),
      h("div", { class: "row" },
        h("span", { class: `tag${each.gate_open && each.enabled ? " serving" : ""}` }, state(each)),
        h("button", { type: "button", class: "quiet", "data-key": `switch-${each.version}`, onclick: () => turn(each, name) }, each.enabled ? "Switch off…" : "Switch on…")));
    if (!each.written) {
      return h("div", { class: "card" }, title, empty("Nothing is remembered yet", TEACH[each.model], `errata memory stats --model ${each.model}`));
    }
    const weights = Object.entries(each.weights).sort((a, b) => b[1] - a[1]).slice(0, LISTENED_TO);
    const { drift } = each;
    return h("div", { class: "card" }, title,
      h("dl", { class: "figures inner" }, [
        ["outcomes counted", count(each.written)],
        ["entries kept", count(each.entries), `${percent(each.entries / each.capacity)} of its room, ${(each.bytes / 1e6).toFixed(1)} MB`],
        ["hit rate", each.reads ? percent(each.hits / each.reads) : "–", `of ${count(each.reads)} predictions, an entry was near`],
        ["log loss, corrected − model", signed(each.excess_loss), "lately; below zero it helps"],
        ["drift alarms", drift ? count(drift.rises) : "–", drift ? `the model's own mean error is ${drift.error.toFixed(3)} over the last ${count(drift.entries)} outcomes` : "no detector runs here"],
      ].map(([term, value, more]) => h("div", { class: "figure", title: more }, h("dt", {}, term), h("dd", {}, value)))),
      h("p", { class: "how" }, verdict(each)),
      h("div", { class: "two flat" },
        h("div", {}, h("h3", {}, "Error before and after correction"),
          course.points.length > 1
            ? [beforeAndAfter(course.points, { retrained: course.retrained, alarms: alarms(each, course.points) }),
              h("p", { class: "legend" }, h("span", { class: "key line before" }), "the model alone", h("span", { class: "key line after" }), "corrected",
                h("span", { class: "key line mark" }), `retrained${course.retrained.length ? ` (${course.retrained.length})` : ""}`,
                drift && [h("span", { class: "key line alarm" }), "drift alarm"])]
            : h("p", { class: "none" }, "A line is drawn from the second handful of outcomes on.")),
        h("div", {}, h("h3", {}, "Who is listened to"),
          h("ul", { class: "weights" }, weights.map(([expert, share]) => h("li", {}, h("span", { title: expert }, inWords(expert)), h("span", { class: "meter" }, h("i", { class: expert === "base" ? "fb" : "fr", style: { width: `${100 * share}%` } })), h("small", {}, percent(share))))))),
      entries.length > 0 && [h("h3", {}, "The loudest entries"), loudest(each, entries, name)],
      h("details", { "data-key": each.version }, h("summary", {}, "From a shell"),
        h("div", { class: "stack tight" }, [`errata memory tail --model ${each.model}`, `errata memory explain PREDICTION_ID --model ${each.model}`, `errata memory forget --model ${each.model} --where source=NAME`].map((command) => h("div", {}, copyable(command))))));
  }

  function loudest(each, entries, name) {
    const most = entries[0].influence || 1;
    const about = entries.some((entry) => entry.about);
    return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": `Loudest entries of the ${name.toLowerCase()}` },
      table([...(about ? ["About"] : []), "The model said", "It was", "Influence", "When", "Source", ""], entries.map((entry) => [
        ...(about ? [entry.about] : []),
        h("s", { class: "struck-label" }, entry.predicted), entry.outcome,
        h("span", { class: "meter", title: `moves a prediction at its place by ${entry.influence}` }, h("i", { class: "fr", style: { width: `${(100 * entry.influence) / most}%` } })),
        entry.time_ms ? ago(entry.time_ms) : "–",
        h("span", { class: "mono", title: "A hash: names are not kept here" }, entry.source.slice(0, 8)),
        h("div", { class: "row end" },
          h("button", { type: "button", class: "small", "data-key": `forget-${entry.feedback}-${entry.source}`, "aria-label": `Forget: ${entry.about ?? ""} ${entry.predicted}, was ${entry.outcome}`, onclick: () => forget(each, entry) }, "Forget…")),
      ])));
  }

  function forget(each, entry) {
    const all = h("input", { type: "checkbox", id: "forget-all", checked: !entry.feedback, disabled: !entry.feedback });
    confirmed({
      title: "Forget this entry?",
      text: [
        `${entry.about ? `${entry.about}: the` : "The"} model said ${entry.predicted}, it was ${entry.outcome}. Every replica goes on as if that had never been said, within a second.`,
        h("span", { class: "row" }, all, h("label", { for: "forget-all", class: "inline" }, `and all else that source ${entry.source.slice(0, 8)} said or will say`)),
      ],
      verb: "Forget",
      act: async () => {
        const what = all.checked ? { source: entry.source } : { feedback: entry.feedback };
        await send(`/v1/memory/${each.model}/forget`, { version: each.version, ...what });
        setTimeout(refresh, 400);
      },
    });
  }

  function turn(each, name) {
    confirmed({
      title: `Switch the memory of the ${name.toLowerCase()} ${each.enabled ? "off" : "on"}?`,
      text: [each.enabled ? "Answers are the model's own from now on, in every replica. Outcomes are still collected." : "Corrections are applied again, in every replica, where they have proved themselves."],
      verb: each.enabled ? "Switch off" : "Switch on",
      command: `errata memory ${each.enabled ? "off" : "on"} --model ${each.model}`,
      act: async () => {
        await send(`/v1/memory/${each.model}/switch`, { version: each.version, enabled: !each.enabled });
        setTimeout(refresh, 400);
      },
    });
  }

  return {
    shown: () => { refresh(); timer ??= setInterval(() => { if (!document.hidden) refresh(); }, EVERY_MS); },
    left: () => { clearInterval(timer); timer = null; },
  };
}

const state = (each) => !each.fresh ? "frozen" : !each.enabled ? "switched off" : each.gate_open ? "corrects" : "watches";

function verdict(each) {
  if (!each.fresh) return "Redis does not answer: corrections go on from what was read, and nothing new is learned.";
  if (!each.enabled) return "It was switched off: the model's own word stands, and outcomes are still collected.";
  const worth = each.excess_loss === 0 ? "" : ` Lately they ${each.gate_open ? "made" : "would have made"} the answers ${each.excess_loss < 0 ? "better" : "worse"}.`;
  if (each.gate_open) return `Corrections are applied.${worth || " Too little is known yet to say what they are worth."}`;
  if (each.written < each.probation) return `It only watches: the model's own word stands until ${count(each.probation)} outcomes have shown what corrections are worth.${worth}`;
  return `It only watches: corrections were no better than the model's own word.${worth}`;
}

const signed = (x) => `${x > 0 ? "+" : x < 0 ? "−" : ""}${Math.abs(x).toFixed(4)}`;

// Experts have technical names; what they do has a plain one.
function inWords(name) {
  if (name === "base") return "the model itself";
  const [, kind, width, life] = /^(kernel|sketch) (\S+) t½=(\S+)$/.exec(name) ?? [];
  if (!kind) return name;
  const span = life === "inf" ? "of all time" : `of the last ${count(Number(life))}`;
  if (kind === "sketch") return width === "2^0" ? `all errors, ${span}` : `errors of a region, ${span}`;
  const beta = Number(width.slice(2));
  return `${beta >= 100 ? "the very nearest" : beta >= 20 ? "near" : "wider"} errors, ${span}`;
}

// When the drift detector last rang, in milliseconds: it counts entries, which end with the newest.
function alarms({ drift, written }, points) {
  if (!drift || drift.last_rise === null || drift.last_rise === undefined) return [];
  let since = written - drift.last_rise;
  for (const point of [...points].reverse()) {
    since -= point.outcomes;
    if (since <= 0) return [point.time_ms];
  }
  return [];
}
