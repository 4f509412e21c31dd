// The item space as a field of dots, with a history and a list lit in it.

import { getJson, query } from "./api.js";
import { failure, h, replace } from "./dom.js";

const NEAR_PX = 14;
const FILLS = 8;

export class ItemMap {
  #field = null; // {item_ids, titles, xy, places}
  #version = null;
  #lit = { history: [], results: [] };
  #spots = new Map(); // item_id → [x, y] of what is lit
  #pointed = null;
  #lighting = 0;

  constructor({ onpick }) {
    this.canvas = h("canvas", { role: "img", "aria-label": "Map of the item space" });
    this.tip = h("div", { class: "tip", hidden: true });
    this.body = h("div", { class: "canvas" }, this.canvas, this.tip);
    this.inks = Object.fromEntries(["dot", "read", "lit", "label", "halo"].map((name) => {
      const probe = h("span", { class: `ink ${name}`, hidden: true });
      this.body.append(probe);
      return [name, probe];
    }));
    this.fills = Array.from({ length: FILLS }, (_, i) => {
      const probe = h("span", { class: `ink f${i}`, hidden: true });
      this.body.append(probe);
      return probe;
    });
    this.element = h("div", { class: "item-map" }, this.body,
      h("p", { class: "legend" },
        h("span", { class: "key read" }), "history",
        h("span", { class: "key lit" }), "recommended",
        h("span", { class: "key dot" }), "the rest, coloured by kind"));
    this.canvas.addEventListener("pointermove", (event) => this.#hover(event));
    this.canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    this.canvas.addEventListener("click", (event) => {
      const item = this.#at(event);
      if (item) onpick(item);
    });
    new ResizeObserver(() => this.resize()).observe(this.body);
    document.addEventListener("theme", () => this.draw());
  }

  async light(history, results, version) {
    this.#lit = { history, results };
    const number = ++this.#lighting;
    try {
      if (this.#version !== version) {
        this.body.classList.toggle("waiting", true);
        const field = await getJson("/v1/map");
        this.#field = field;
        this.#version = field.model_version;
        this.#spots = new Map();
        this.body.classList.toggle("waiting", false);
      }
      const wanted = [...history, ...results].map((each) => each.item_id).filter((id) => !this.#spots.has(id));
      if (wanted.length) {
        const found = await getJson(`/v1/map?${query({ item_id: wanted })}`);
        found.item_ids.forEach((id, i) => this.#spots.set(id, found.xy[i]));
      }
      if (number === this.#lighting) this.draw();
    } catch (problem) {
      this.body.classList.toggle("waiting", false);
      if (!this.#field) replace(this.element, failure(problem));
    }
  }

  point(id) {
    this.#pointed = id;
    this.draw();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.body;
    const scale = devicePixelRatio || 1;
    if (!width || !height) return;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.draw();
  }

  draw() {
    if (!this.#field || !this.canvas.width) return;
    const pen = this.canvas.getContext("2d");
    const scale = devicePixelRatio || 1;
    const width = this.canvas.width / scale;
    const height = this.canvas.height / scale;
    const ink = (name) => getComputedStyle(this.inks[name]).color;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const many = this.#field.xy.length;
    const size = many > 1500 ? 1.9 : many > 400 ? 2.4 : 3;
    const fills = this.fills.map((probe) => getComputedStyle(probe).backgroundColor);
    const plain = ink("dot");
    pen.globalAlpha = this.#lit.results.length ? 0.4 : 0.65;
    this.#field.xy.forEach(([x, y], i) => {
      const kind = this.#field.kinds?.[i] ?? -1;
      pen.fillStyle = kind >= 0 && kind < FILLS ? fills[kind] : plain;
      pen.beginPath();
      pen.arc(x * width, (1 - y) * height, size, 0, 7);
      pen.fill();
    });
    pen.globalAlpha = 1;
    const spot = (item) => this.#spots.get(item.item_id);
    // From the history item that most brought a result, a thread to it.
    pen.lineWidth = 1;
    for (const item of this.#lit.results) {
      const to = spot(item);
      for (const reason of (item.reasons ?? []).slice(0, 1)) {
        const from = this.#spots.get(reason.item_id);
        if (!from || !to) continue;
        const pointed = this.#pointed === item.item_id;
        pen.strokeStyle = ink("lit");
        pen.globalAlpha = pointed ? 0.9 : this.#pointed ? 0.06 : 0.22;
        pen.beginPath();
        pen.moveTo(from[0] * width, (1 - from[1]) * height);
        pen.lineTo(to[0] * width, (1 - to[1]) * height);
        pen.stroke();
      }
    }
    pen.globalAlpha = 1;
    pen.lineWidth = 2;
    pen.strokeStyle = ink("read");
    for (const item of this.#lit.history) {
      const at = spot(item);
      if (!at) continue;
      pen.beginPath();
      pen.arc(at[0] * width, (1 - at[1]) * height, 4, 0, 7);
      pen.stroke();
    }
    pen.fillStyle = ink("lit");
    for (const item of this.#lit.results) {
      const at = spot(item);
      if (!at) continue;
      const pointed = this.#pointed === item.item_id;
      pen.globalAlpha = this.#pointed && !pointed ? 0.4 : 1;
      pen.beginPath();
      pen.arc(at[0] * width, (1 - at[1]) * height, pointed ? 7 : 4.5, 0, 7);
      pen.fill();
    }
    pen.globalAlpha = 1;
    // Names last, with a halo, so that dots do not cut through them.
    pen.font = "600 11.5px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.lineJoin = "round";
    pen.lineWidth = 4;
    pen.strokeStyle = ink("halo");
    this.#field.places.forEach(({ name, x, y }, kind) => {
      const half = pen.measureText(name).width / 2 + 4;
      const at = [Math.min(Math.max(x * width, half), width - half), Math.min(Math.max((1 - y) * height, 12), height - 6)];
      pen.strokeText(name, ...at);
      pen.fillStyle = kind < FILLS ? fills[kind] : ink("label");
      pen.fillText(name, ...at);
    });
    const { history, results } = this.#lit;
    this.canvas.setAttribute("aria-label",
      `Map of the item space: ${many} items as dots, ${history.length} of the history and ${results.length} recommended ones lit`);
  }

  #at(event) {
    if (!this.#field) return null;
    const box = this.canvas.getBoundingClientRect();
    const px = event.clientX - box.left;
    const py = event.clientY - box.top;
    let best = null;
    let nearest = NEAR_PX ** 2;
    const consider = (item, [x, y], bonus) => {
      const d = ((x * box.width - px) ** 2 + ((1 - y) * box.height - py) ** 2) * bonus;
      if (d < nearest) [best, nearest] = [item, d];
    };
    for (const item of [...this.#lit.history, ...this.#lit.results]) {
      const at = this.#spots.get(item.item_id);
      if (at) consider(item, at, 0.25);
    }
    this.#field.xy.forEach((at, i) => consider({ item_id: this.#field.item_ids[i], title: this.#field.titles[i] }, at, 1));
    return best;
  }

  #hover(event) {
    const item = this.#at(event);
    this.tip.hidden = !item;
    this.canvas.style.setProperty("cursor", item ? "pointer" : "default");
    if (!item) return;
    const box = this.body.getBoundingClientRect();
    this.tip.textContent = item.title ?? item.item_id;
    this.tip.style.setProperty("left", `${Math.min(event.clientX - box.left + 12, box.width - 150)}px`);
    this.tip.style.setProperty("top", `${event.clientY - box.top + 14}px`);
  }
}
