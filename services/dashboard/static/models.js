// Versions of each model: what serves, how they measure up side by side, and the model card.

import { getJson, getText } from "./api.js";
import { copyable, empty, failure, h, replace } from "./dom.js";
import { prose } from "./prose.js";

const MODELS = [
  { name: "recommender", title: "Recommender", train: "errata train recommender --data DIR --promote" },
  { name: "traffic", title: "Traffic classifier", train: "errata train traffic --data DIR --promote" },
];
const COMPARED = 4;
// Evaluations beside a model's own figures: not what versions are compared by.
const MOST_METRICS = 14;

export function view(panel) {
  const cards = MODELS.map((model) => ({ model, body: h("div", {}), title: h("h2", {}, model.title) }));
  replace(panel, h("div", { class: "stack" },
    cards.map(({ title, body }) => h("div", { class: "card" }, title, body))));

  async function refresh() {
    await Promise.all(cards.map(async ({ model, body }) => {
      try {
        draw(model, body, (await getJson(`/v1/models/${model.name}`)).versions);
      } catch (problem) {
        replace(body, failure(problem, refresh));
      }
    }));
  }

  function draw(model, body, versions) {
    if (!versions.length) {
      replace(body, empty("No version yet", "Train one and promote it; it serves within a second, without a restart.", model.train));
      return;
    }
    const newest = [...versions].reverse();
    replace(body,
      h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": `Versions of the ${model.title.toLowerCase()}` },
        table(["Version", "Made", "Size", "Serves", ""], newest.map((each) => [
          h("span", { class: "mono" }, each.version),
          new Date(each.created_at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }),
          `${(each.size_bytes / 1e6).toFixed(1)} MB`,
          each.aliases.length ? each.aliases.map((alias) => h("span", { class: `tag${alias === "champion" ? " serving" : ""}` }, alias)) : "",
          each.aliases.includes("champion")
            ? newest.length > 1 && h("details", {}, h("summary", {}, "Roll back"), copyable(`errata registry rollback --model ${model.name}`))
            : h("details", {}, h("summary", {}, "Promote"), copyable(`errata registry promote ${each.version} --model ${model.name}`)),
        ]))),
      comparison(model, newest.slice(0, COMPARED)),
      cardOf(model, newest.find((each) => each.aliases.includes("champion") && each.has_card) ?? newest.find((each) => each.has_card)));
  }

  return { shown: refresh };
}

function comparison(model, versions) {
  const figures = versions.map((each) => new Map(flattened(each.metrics)));
  const names = [...new Set(figures.flatMap((each) => [...each.keys()]))];
  if (!names.length) return h("p", { class: "note" }, "These versions were published without metrics.");
  const champion = versions.findIndex((each) => each.aliases.includes("champion"));
  const base = figures[champion] ?? figures[0];
  const row = (name) => [name.replaceAll("_", " "), ...figures.map((each, i) => {
    const value = each.get(name);
    if (value === undefined) return "";
    const change = value - (base.get(name) ?? NaN);
    return [shown(value), figures[i] !== base && Number.isFinite(change) && change !== 0
      && h("span", { class: "delta" }, `${change > 0 ? "+" : "−"}${shown(Math.abs(change))}`)];
  })];
  const grid = (some) => h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Metrics side by side" },
    table(["Metric", ...versions.map((each) => h("span", { class: "mono", title: each.version }, each.version.slice(-6)))],
      some.map(row), { numbers: true }));
  const rest = names.slice(MOST_METRICS);
  return h("div", {}, h("h3", { class: "over" }, "Side by side"), grid(names.slice(0, MOST_METRICS)),
    rest.length > 0 && h("details", {}, h("summary", {}, `${rest.length} more`), grid(rest)));
}

function* flattened(metrics, prefix = "") {
  for (const [name, value] of Object.entries(metrics ?? {})) {
    if (typeof value === "number") yield [prefix + name, value];
    else if (value && typeof value === "object" && !Array.isArray(value)) yield* flattened(value, `${prefix}${name} · `);
  }
}

const shown = (value) => Number.isInteger(value) ? value.toLocaleString("en")
  : Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);

function cardOf(model, version) {
  if (!version) return null;
  const body = h("div", { class: "prose" }, "reading…");
  const details = h("details", { ontoggle: async () => {
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
