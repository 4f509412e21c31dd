// The frame: tabs, theme, key, and whether the service is well. A view is made when it is first
// shown, and told when it is shown and left.

import { key } from "./api.js";
import { failure, replace } from "./dom.js";

const VIEWS = ["recommend", "traffic", "memory", "models"];
const HEALTH_EVERY_MS = 5000;
const made = new Map();
const tabs = new Map(VIEWS.map((name) => [name, document.getElementById(`tab-${name}`)]));
let shown = null;

async function show(name, { focus = false } = {}) {
  if (!VIEWS.includes(name)) name = VIEWS[0];
  if (shown && shown !== name) made.get(shown)?.left?.();
  shown = name;
  for (const [each, tab] of tabs) {
    const chosen = each === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    document.getElementById(each).hidden = !chosen;
  }
  if (focus) tabs.get(name).focus();
  document.title = `${tabs.get(name).textContent} · Errata`;
  const panel = document.getElementById(name);
  if (!made.has(name)) {
    try {
      const { view } = await import(`./${name}.js`);
      if (!made.has(name)) made.set(name, view(panel));
    } catch (error) {
      replace(panel, failure({ title: "This view could not be loaded", detail: String(error) }, () => show(name)));
      return;
    }
  }
  if (shown === name) made.get(name).shown?.();
}

for (const [name, tab] of tabs) {
  tab.addEventListener("click", () => { location.hash = name; });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const place = VIEWS.indexOf(name);
    const next = step ? VIEWS[(place + step + VIEWS.length) % VIEWS.length]
      : { Home: VIEWS[0], End: VIEWS.at(-1) }[event.key];
    if (!next) return;
    event.preventDefault();
    history.replaceState(null, "", `#${next}`);
    show(next, { focus: true });
  });
}
addEventListener("hashchange", () => {
  if (location.hash !== "#content") show(location.hash.slice(1));
});

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("errata-theme", root.dataset.theme); } catch { /* not kept */ }
  document.dispatchEvent(new CustomEvent("theme"));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new CustomEvent("theme")));

const dialog = document.getElementById("key-dialog");
const value = document.getElementById("key-value");
const why = document.getElementById("key-why");
const keyButton = document.getElementById("key");
let declined = false; // an answer that wants a key opens the dialog once, not every time
function askForKey(reason = "") {
  if (dialog.open) return;
  why.textContent = reason;
  why.hidden = !reason;
  value.value = key.get();
  dialog.showModal();
}
keyButton.classList.toggle("set", Boolean(key.get()));
keyButton.title = key.get() ? "A key is sent with every request" : "No key is sent";
keyButton.addEventListener("click", () => askForKey());
document.addEventListener("key-wanted", ({ detail }) => {
  if (!detail.asked && declined) return;
  askForKey(detail.asked ? "" : key.get() ? "The service does not take the key that it was sent: it is unknown, revoked or expired." : "This service asks for a key.");
});
dialog.addEventListener("close", () => {
  declined = true;
  if (dialog.returnValue !== "save") return;
  key.set(value.value.trim());
  location.reload();
});

const pill = document.getElementById("health");
async function health() {
  try {
    const answer = await fetch("/readyz");
    const found = await answer.json();
    const words = { ok: "well", degraded: "degraded", unavailable: "no model yet" };
    pill.className = `pill ${found.status}`;
    pill.textContent = words[found.status] ?? found.status;
    pill.title = (found.reasons ?? []).join("\n") || `serving ${found.model_version}`;
  } catch {
    pill.className = "pill unavailable";
    pill.textContent = "not reachable";
    pill.title = "Start the service again with `errata serve`.";
  }
}
health();
setInterval(() => { if (!document.hidden) health(); }, HEALTH_EVERY_MS);

show(location.hash.slice(1));
