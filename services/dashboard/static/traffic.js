// Verdicts as they are given: what passes, how sure they are, and one flow's life.

import { getJson, listen, newId, send, upload } from "./api.js";
import { classMix, flowLife, histogram } from "./charts.js";
import { count, empty, failure, h, percent, replace } from "./dom.js";
import { Flows } from "./flows.js";

const DRAW_EVERY_MS = 250;
const AGAIN_MS = 3000;
const LISTED = 60;
const COLOURS = 8;
const UNKNOWN = "unknown";
const NEIGHBOURS = 12;
const NEIGHBOURS_SHOWN = 6;
const SPREAD_EVERY_MS = 150;
const SPREAD_LOOKS = 20;

export function view(panel) {
  const live = new Flows("Live", { live: true });
  const sessions = [live];
  let session = live;
  let chosen = null;
  let drawn = "";
  let stopListening = null;
  let absent = false;
  let problem = null;
  let labelling = false; // whether the service takes labels
  let steps = false; // whether all verdicts of the flow are shown
  let told = null; // what became of the last one
  let near = null; // the flows most like the chosen one: [{verdict, similarity, label, confidence}]
  const now = new Map(); // prediction_id → what would be said of a flow since the last label
  const colours = new Map();

  const fill = (label) => {
    if (label === UNKNOWN) return "fu";
    if (!colours.has(label)) colours.set(label, `f${colours.size % COLOURS}`);
    return colours.get(label);
  };
  const labelled = (label) => h("span", { class: "label" }, h("i", { class: `dotkey ${fill(label)}` }), label);

  const state = h("span", { class: "live", role: "status" }, "connecting");
  const picker = h("select", { "aria-label": "Source of the flows", hidden: true, onchange: () => { session = sessions[picker.selectedIndex]; chosen = null; near = null; draw(true); } });
  const file = h("input", { type: "file", accept: ".pcap,.pcapng,.cap,.gz", "aria-label": "Classify a capture", onchange: () => { if (file.files[0]) classify(file.files[0]); } });
  const chooser = h("span", { class: "file button primary" }, "Classify a capture…", file);
  const body = h("div", {});
  replace(panel, h("div", { class: "bar" }, h("h2", {}, "Traffic"), state, picker, chooser), body);
  panel.addEventListener("dragover", (event) => event.preventDefault());
  panel.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) classify(event.dataTransfer.files[0]);
  });

  async function follow() {
    const abort = new AbortController();
    stopListening = () => { abort.abort(); stopListening = null; };
    while (!abort.signal.aborted) {
      try {
        await listen("/v1/verdicts", {
          signal: abort.signal,
          onopen: () => { absent = false; say("listening", true); },
          onevent: (kind, data) => {
            if (kind === "verdict") live.add(data);
            else if (kind === "comment" && data !== "still here") say(data, true);
          },
        });
        say("the stream ended; listening again", false);
      } catch (error) {
        if (abort.signal.aborted) return;
        absent = error.status === 404;
        say(absent ? "not offered by this service" : "not connected", false);
        draw(true);
        if (absent) return;
      }
      await new Promise((resolve) => { setTimeout(resolve, AGAIN_MS); });
    }
  }
  function say(text, on) {
    state.textContent = text;
    state.classList.toggle("on", on);
  }

  async function classify(capture, again = null) {
    problem = null;
    say(`reading ${capture.name}`, true);
    panel.setAttribute("aria-busy", "true");
    try {
      const found = await upload("/v1/classify?provisional=true", capture);
      const flows = new Flows(capture.name);
      flows.file = capture;
      for (const verdict of found.verdicts) flows.add(verdict);
      live.remove(found.verdicts.map((each) => each.prediction_id));
      const changed = again && changes(again, flows);
      if (again) sessions.splice(sessions.indexOf(again), 1, flows);
      else sessions.push(flows);
      told = null;
      session = flows;
      chosen = null;
      near = null;
      now.clear();
      replace(picker, sessions.map((each) => h("option", { selected: each === session }, each.name)));
      picker.hidden = false;
      const damage = Object.values(found.damage).reduce((sum, n) => sum + n, 0);
      say(`${capture.name}: ${count(found.flows)} flows${again ? `, ${count(changed)} final verdicts changed since the last reading` : ""}${found.left_out ? `, ${count(found.left_out)} verdicts left out` : ""}${damage ? `, ${count(damage)} packets unreadable` : ""}`, false);
    } catch (error) {
      problem = error.status === 404
        ? { title: "This service classifies no traffic", detail: "Classify the capture from the command line: errata classify FILE" }
        : error;
      say("", false);
    } finally {
      panel.removeAttribute("aria-busy");
      file.value = "";
    }
    draw(true);
  }

  function changes(before, after) {
    const said = new Map();
    for (const flow of before.flows.values()) if (flow.final) said.set(`${nameOf(flow.final)} ${flow.final.time}`, flow.final.label);
    return [...after.flows.values()].filter((flow) => flow.final && said.has(`${nameOf(flow.final)} ${flow.final.time}`)
      && said.get(`${nameOf(flow.final)} ${flow.final.time}`) !== flow.final.label).length;
  }

  async function label(flow, name) {
    if (!name) return;
    try {
      const { outcomes: [outcome] } = await send("/v1/labels", { labels: [{ prediction_id: flow.id, label: name, source: "dashboard", feedback_id: newId() }] });
      told = {
        learned: `Learned as ${name}.`,
        duplicate: "This flow was labelled before.",
        expired: "This flow's verdict is no longer kept: read the capture again, then label it.",
        no_room: "The memory has no room for a further class.",
      }[outcome] ?? outcome;
      draw(true);
      if (outcome === "learned") await spread(flow, name);
    } catch (error) {
      told = `${error.title}: ${error.detail}`;
    }
    draw(true);
  }

  // Every replica reads the label within a fraction of a second: what it did to the neighbours.
  async function spread(flow, name) {
    const was = new Map((near ?? []).map((each) => [each.verdict.prediction_id, each.confidence]));
    for (let i = 0; i < SPREAD_LOOKS; i += 1) {
      await new Promise((resolve) => { setTimeout(resolve, SPREAD_EVERY_MS); });
      if (!await neighbours(flow.id)) return;
      const moved = ({ verdict, confidence }) => was.get(verdict.prediction_id) !== confidence;
      if (!near.some(moved)) continue;
      const others = near.slice(1);
      const changed = others.filter((each) => each.label !== each.verdict.label).length;
      told = `Learned as ${name}. Of the ${others.length} flows most like it, ${changed} ${changed === 1 ? "is" : "are"} now read differently, and ${others.filter(moved).length} with another confidence than before; so are flows to come.`;
      return;
    }
  }

  async function neighbours(id) {
    try {
      const found = (await getJson(`/v1/verdicts/${id}/neighbours?k=${NEIGHBOURS}`)).flows;
      if (id !== chosen) return false;
      near = found;
      for (const each of near) {
        if (each.label === each.verdict.label) now.delete(each.verdict.prediction_id);
        else now.set(each.verdict.prediction_id, each);
      }
    } catch {
      near = null; // it goes on, or its verdict is too old
      return false;
    }
    draw(true);
    return true;
  }

  function choose(id) {
    chosen = id;
    near = null;
    told = null;
    draw(true);
    neighbours(id);
  }

  function draw(force = false) {
    const mark = `${session.name} ${session.changes} ${chosen} ${session.live ? Math.floor(Date.now() / 1000) : ""}`;
    if (!force && (mark === drawn || document.activeElement?.id === "own-label")) return;
    drawn = mark;
    if (problem) {
      replace(body, h("div", { class: "card" }, failure(problem, () => { problem = null; draw(true); })));
      return;
    }
    if (!session.flows.size) {
      replace(body, h("div", { class: "card" }, absent
        ? empty("No traffic is classified here", "Start the service with a traffic model in its registry, or read a capture from the command line.", "errata classify trace.pcap")
        : empty("Nothing has passed yet", "Drop a capture here (pcap or pcapng, plain or gzipped), or start the service with an interface to watch.", "errata serve --interface eth0")));
      return;
    }
    const found = session.summary();
    const labels = [...found.labels.keys()].sort((a, b) => (a === UNKNOWN) - (b === UNKNOWN));
    const focus = panel.contains(document.activeElement) ? document.activeElement.dataset.flow : null;
    const scrolled = body.querySelector(".scroll")?.scrollTop ?? 0;
    replace(body,
      h("dl", { class: "figures" },
        [["flows", count(found.flows)], ["flows a second", found.perSecond.toFixed(1)], ["unknown", percent(found.unknown)], ["mean confidence", percent(found.confidence)]]
          .map(([name, value]) => h("div", { class: "figure" }, h("dt", {}, name), h("dd", {}, value)))),
      h("div", { class: "two" },
        h("div", { class: "card" }, h("h3", {}, "Class mix over time"),
          classMix(found.bins, labels, fill, session.live ? { from: "a minute ago", to: "now" } : { from: "first flow", to: `${found.span.toFixed(1)} s later` }),
          h("ul", { class: "classes" }, labels.map((label) => h("li", {}, labelled(label), h("small", {}, `${count(found.labels.get(label))}, ${percent(found.labels.get(label) / found.done)}`))))),
        h("div", { class: "card" }, h("h3", {}, "Confidence of final verdicts"), histogram(found.histogram))),
      h("div", { class: "two" },
        h("div", { class: "card" }, h("h3", {}, session.live ? "Newest flows" : "Flows"), list()),
        h("div", { class: "card", "aria-live": "polite" }, life())));
    body.querySelector(".scroll").scrollTop = scrolled;
    if (focus) body.querySelector(`[data-flow="${focus}"]`)?.focus();
  }

  function list() {
    const newest = [...session.flows.values()].slice(-LISTED).reverse();
    if (chosen === null) {
      chosen = (newest.find((flow) => flow.final && flow.verdicts.size > 2) ?? newest[0])?.id ?? null;
      if (chosen) queueMicrotask(() => neighbours(chosen));
    }
    return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Flows" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Flow", "Verdict"].map((name) => h("th", { scope: "col" }, name)), ["Confidence", "Packets"].map((name) => h("th", { scope: "col", class: "n" }, name)))),
      h("tbody", {}, newest.map((flow) => h("tr", { "aria-current": flow.id === chosen ? "true" : null },
        h("td", {}, h("button", { type: "button", class: "flow", "data-flow": flow.id, onclick: () => choose(flow.id) }, nameOf(flow.last))),
        h("td", {}, now.has(flow.id) && h("s", { class: "struck-label" }, flow.last.label), labelled(now.get(flow.id)?.label ?? flow.last.label)),
        h("td", { class: "n" }, percent(flow.last.confidence)),
        h("td", { class: "n" }, flow.last.packet, flow.final ? "" : " …"))))));
  }

  function life() {
    const flow = session.flows.get(chosen);
    if (!flow) return [h("h3", {}, "A flow's life"), h("p", { class: "none" }, "Choose a flow to see its verdict after every packet.")];
    const verdicts = Flows.life(flow);
    const { final } = flow;
    const why = { early_exit: "sure enough to stop reading", packet_limit: "as many packets as the model reads", flow_end: "the flow ended" };
    return [
      h("h3", {}, "A flow's life, packet by packet"),
      h("p", { class: "mono" }, nameOf(flow.last)),
      flowLife(verdicts, fill, 8),
      h("p", { class: "note" }, final ? ["Final: ", labelled(final.label), ` at ${percent(final.confidence)}, ${why[final.reason]}.`,
        final.label === UNKNOWN && ` The likeliest was ${final.guess}.`,
        now.has(flow.id) && [" It would be read as ", labelled(now.get(flow.id).label), " now."]] : "The flow goes on."),
      labelling && labels(flow),
      h("details", { open: steps, ontoggle: (event) => { steps = event.target.open; } }, h("summary", {}, `All ${verdicts.length} verdicts`),
        h("div", { class: "wide compact", tabindex: "0", role: "region", "aria-label": "Verdicts of the flow" }, h("table", {},
          h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Packet"), h("th", { scope: "col" }, "Verdict"), h("th", { scope: "col", class: "n" }, "Confidence"))),
          h("tbody", {}, verdicts.map((each, i) => h("tr", {}, h("td", {}, each.packet),
            h("td", {}, i > 0 && verdicts[i - 1].label !== each.label && h("s", { class: "struck-label" }, verdicts[i - 1].label), labelled(each.label)),
            h("td", { class: "n" }, percent(each.confidence)))))))),
      near && near.length > 1 && alike(),
    ];
  }

  function alike() {
    return [h("h3", { class: "over" }, "The flows most like it, as they would be read now"),
      h("div", { class: "wide compact", tabindex: "0", role: "region", "aria-label": "Neighbours of the flow" }, h("table", {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Flow"), h("th", { scope: "col" }, "Verdict"), h("th", { scope: "col", class: "n" }, "Confidence"))),
        h("tbody", {}, near.slice(1, 1 + NEIGHBOURS_SHOWN).map(({ verdict, similarity, label, confidence }) => h("tr", { class: label !== verdict.label ? "changed" : null },
          h("td", { class: "mono", title: `similarity ${similarity.toFixed(3)}` }, nameOf(verdict)),
          h("td", {}, label !== verdict.label && h("s", { class: "struck-label" }, verdict.label), labelled(label)),
          h("td", { class: "n" }, Math.abs(confidence - verdict.confidence) >= 0.005 && h("s", { class: "struck-label" }, percent(verdict.confidence)), percent(confidence)))))))];
  }

  function labels(flow) {
    const own = h("input", { type: "text", id: "own-label", autocomplete: "off", placeholder: "another class", maxlength: 128 });
    const known = [...colours.keys()].filter((name) => name !== flow.last.label);
    return h("form", { class: "labelling", onsubmit: (event) => { event.preventDefault(); label(flow, own.value.trim()); } },
      h("h3", {}, "What was it really?"),
      h("div", { class: "chips" }, known.map((name) => h("button", { type: "button", class: "chip", onclick: () => label(flow, name) }, name))),
      h("div", { class: "row" }, h("label", { for: "own-label", class: "hidden" }, "Another class"), own, h("button", { type: "submit" }, "Label it")),
      told && h("p", { class: "note learned", role: "status" }, told),
      told && session.file && h("button", { type: "button", onclick: () => classify(session.file, session) }, "Read the capture again"));
  }

  const nameOf = (v) => `${v.protocol} ${ended(v.source, v.source_port)} → ${ended(v.destination, v.destination_port)}`;
  const ended = (address, port) => (address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`);

  setInterval(() => { if (!panel.hidden && !document.hidden) draw(); }, DRAW_EVERY_MS);
  draw(true);
  getJson("/openapi.json").then((document) => { labelling = "/v1/labels" in document.paths; draw(true); }, () => {});
  return {
    shown: () => { if (!stopListening) follow(); draw(true); },
    // Verdicts go on being counted while another view is shown.
    left: () => {},
  };
}
