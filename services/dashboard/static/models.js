// Versions of each model: what serves, how they measure up side by side, the model card, and moving
// the alias.

import { getJson, getText, send } from "./api.js";
import { ago, confirmed, empty, failure, h, replace } from "./dom.js";
import { prose } from "./prose.js";

const MODELS = [
  { name: "recommender", title: "Recommender", train: "errata train recommender --data DIR --promote" },
  { name: "traffic", title: "Traffic classifier", train: "errata train traffic --data DIR --promote" },
];
const COMPARED = 4;
// Evaluations beside a model's own figures: not what versions are compared by.
const MOST_METRICS = 14;
const SERVES_WITHIN_MS = 20_000;
const LOOK_AGAIN_MS = 300;

export function view(panel) {
  const cards = MODELS.map((model) => ({
    model, body: h("div", {}), title: h("h2", {}, model.title), note: h("p", { class: "note", role: "status" }),
  }));
  replace(panel, h("div", { class: "stack" },
    cards.map(({ title, note, body }) => h("div", { class: "card" }, title, note, body))));

  async function refresh() {
    await Promise.all(cards.map(async (card) => {
      try {
        draw(card, (await getJson(`/v1/models/${card.model.name}`)).versions);
      } catch (problem) {
        replace(card.body, failure(problem, refresh));
      }
    }));
  }

  function draw(card, versions) {
    const { model, body } = card;
    if (!versions.length) {
      replace(body, empty("No version yet", "Train one and promote it; it serves within a second, without a restart.", model.train));
      return;
    }
    const newest = [...versions].reverse();
    const champion = newest.find((each) => each.aliases.includes("champion"));
    const open = body.querySelector("details[data-card]")?.open;
    replace(body,
      h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": `Versions of the ${model.title.toLowerCase()}` },
        table(["Version", "Made", "Size", "Serves", ""], newest.map((each) => [
          h("span", { class: "mono" }, each.version),
          h("span", { title: new Date(each.created_at).toLocaleString("en-GB") }, ago(Date.parse(each.created_at))),
          `${(each.size_bytes / 1e6).toFixed(1)} MB`,
          each.aliases.map((alias) => h("span", { class: `tag${alias === "champion" ? " serving" : ""}` }, alias)),
          h("div", { class: "row end" }, each === champion
            ? newest.length > 1 && h("button", { type: "button", onclick: () => rollBack(card, each) }, "Roll back…")
            : h("button", { type: "button", "aria-label": `Promote ${each.version}`, onclick: () => promote(card, each, champion) }, "Promote…")),
        ]))),
      comparison(newest.slice(0, COMPARED)),
      cardOf(model, champion?.has_card ? champion : newest.find((each) => each.has_card), open));
  }

  function promote(card, version, champion) {
    const { model } = card;
    confirmed({
      title: `Promote ${version.version}?`,
      text: [
        champion ? `It takes the place of ${champion.version} for everybody, within a second and without a restart.` : "It serves everybody, within a second and without a restart.",
        ...differences(version, champion),
        "Its files are verified first. The error memory of the version that serves stays with that version.",
      ],
      verb: "Promote",
      command: `errata registry promote ${version.version} --model ${model.name}`,
      act: async () => moved(card, await send(`/v1/models/${model.name}/promote`, { version: version.version })),
    });
  }

  function rollBack(card, champion) {
    const { model } = card;
    confirmed({
      title: `Roll the ${model.title.toLowerCase()} back?`,
      text: [`The version that served before ${champion.version} serves again, within a second and without a restart.`],
      verb: "Roll back",
      command: `errata registry rollback --model ${model.name}`,
      act: async () => moved(card, await send(`/v1/models/${model.name}/rollback`, {})),
    });
  }

  // The alias has moved; the note follows until the service does.
  async function moved(card, { version, before }) {
    const { note, model } = card;
    refresh();
    note.classList.remove("warn");
    note.textContent = `${version} is the champion now; loading it…`;
    const until = Date.now() + SERVES_WITHIN_MS;
    (async () => {
      while (Date.now() < until) {
        if (await serving(model) === version) {
          note.textContent = `${version} serves${before ? `, in place of ${before}` : ""}.`;
          return;
        }
        await new Promise((resolve) => { setTimeout(resolve, LOOK_AGAIN_MS); });
      }
      note.classList.add("warn");
      note.textContent = `${version} is the champion but does not serve yet: /readyz and the service's log say why.`;
    })();
  }

  return { shown: refresh };
}

async function serving(model) {
  try {
    if (model.name === "recommender") return (await (await fetch("/readyz")).json()).model_version;
    const { memories } = await getJson("/v1/memory");
    return memories.find((each) => each.model === model.name)?.version;
  } catch {
    return null;
  }
}

function differences(version, champion) {
  if (!champion) return [];
  const of = new Map(flattened(champion.metrics));
  const told = [...flattened(version.metrics)].filter(([name]) => of.has(name)).slice(0, 3)
    .map(([name, value]) => `${said(name)} ${shown(value)} (now ${shown(of.get(name))})`);
  return told.length ? [`Measured: ${told.join(", ")}.`] : [];
}

function comparison(versions) {
  const figures = versions.map((each) => new Map(flattened(each.metrics)));
  const names = [...new Set(figures.flatMap((each) => [...each.keys()]))];
  if (!names.length) return h("p", { class: "note" }, "These versions were published without metrics.");
  const champion = versions.findIndex((each) => each.aliases.includes("champion"));
  const base = figures[champion] ?? figures[0];
  const row = (name) => [said(name), ...figures.map((each) => {
    const value = each.get(name);
    if (value === undefined) return "";
    const change = value - (base.get(name) ?? NaN);
    return [shown(value), each !== base && Number.isFinite(change) && change !== 0
      && h("span", { class: `delta ${(change > 0) === !lowIsGood(name) ? "good" : "bad"}` }, `${change > 0 ? "+" : "−"}${shown(Math.abs(change))}`)];
  })];
  const grid = (some) => h("div", { class: "wide compact", tabindex: "0", role: "region", "aria-label": "Metrics side by side" },
    table(["Metric", ...versions.map((each) => [h("span", { class: "mono", title: each.version }, each.version.slice(-6)), each.aliases.includes("champion") && h("span", { class: "tag serving" }, "champion")])],
      some.map(row), { numbers: true }));
  // Counts say how large something is, not how good.
  const isCount = (name) => figures.every((each) => !each.has(name) || (Number.isInteger(each.get(name)) && each.get(name) > 1));
  const telling = names.filter((name) => !isCount(name)).slice(0, MOST_METRICS);
  const first = telling.length ? telling : names.slice(0, MOST_METRICS);
  const rest = names.filter((name) => !first.includes(name));
  return h("div", {}, h("h3", { class: "over" }, "Side by side"), grid(first),
    rest.length > 0 && h("details", {}, h("summary", {}, `${rest.length} more`), grid(rest)));
}

const lowIsGood = (name) => /loss|ece|error|gini|latency|_ms|drop/i.test(name);
const said = (name) => name.replaceAll("_", " ");

function* flattened(metrics, prefix = "") {
  for (const [name, value] of Object.entries(metrics ?? {})) {
    if (typeof value === "number") yield [prefix + name, value];
    else if (value && typeof value === "object" && !Array.isArray(value)) yield* flattened(value, `${prefix}${name} · `);
  }
}

const shown = (value) => Number.isInteger(value) ? value.toLocaleString("en")
  : Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);

function cardOf(model, version, open) {
  if (!version) return null;
  const body = h("div", { class: "prose" }, "reading…");
  const details = h("details", { "data-card": model.name, open, ontoggle: async () => {
    if (!details.open) return;
    try {
      replace(body, prose(await getText(`/v1/models/${model.name}/${version.version}/card`)));
    } catch (problem) {
      replace(body, failure(problem));
    }
  } }, h("summary", {}, `Model card of ${version.version}`), body);
  return details;
}

export function table(head, rows, { numbers = false } = {}) {
  return h("table", {},
    h("thead", {}, h("tr", {}, head.map((cell, i) => cell === "" ? h("td", {}) : h("th", { scope: "col", class: numbers && i ? "n" : null }, cell)))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, i) =>
      numbers && i === 0 ? h("th", { scope: "row" }, cell) : h("td", { class: numbers ? "n" : null }, cell))))));
}
