// Elements without a framework: h("li", {class: "item", onclick}, "text", child).

const SVG = "http://www.w3.org/2000/svg";

export const h = (tag, props, ...children) =>
  filled(document.createElement(tag), props, children);

export const s = (tag, props, ...children) =>
  filled(document.createElementNS(SVG, tag), props, children);

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null) continue;
    if (typeof value === "boolean" && name.startsWith("aria-")) {
      element.setAttribute(name, String(value));
      continue;
    }
    if (value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") {
      // Through the object model: the page's policy allows no style attributes.
      for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    } else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const replace = (element, ...children) =>
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));

// What to say where there is nothing to show, and what to do about it.
export function empty(title, text, command) {
  return h("div", { class: "empty" },
    h("p", { class: "empty-title" }, title),
    text && h("p", {}, text),
    command && copyable(command));
}

export function failure(problem, retry) {
  return h("div", { class: "empty failure", role: "alert" },
    h("p", { class: "empty-title" }, problem.title ?? "Something went wrong"),
    h("p", {}, problem.detail ?? problem.message),
    (problem.status === 401 || problem.status === 403) && h("button", { type: "button", class: "primary", onclick: () => document.dispatchEvent(new CustomEvent("key-wanted", { detail: { asked: true } })) },
      problem.status === 401 ? "Enter a key" : "Use another key"),
    retry && h("button", { type: "button", onclick: retry }, "Try again"));
}

export function copyable(command) {
  const button = h("button", { type: "button", class: "quiet", onclick: copy }, "Copy");
  async function copy() {
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select and copy it";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }
  return h("div", { class: "command" }, h("code", { tabindex: "0" }, command), button);
}

// Asks before something is done; `act` may fail, and is told why in the dialog.
export function confirmed({ title, text, verb, command, act }) {
  const problem = h("div", {});
  const yes = h("button", { type: "button", class: "primary", onclick: go }, verb);
  const dialog = h("dialog", { "aria-labelledby": "confirm-title", onclose: () => dialog.remove() },
    h("h2", { id: "confirm-title" }, title), text.map((each) => h("p", {}, each)),
    command && h("details", {}, h("summary", {}, "From a shell"), copyable(command)),
    problem,
    h("div", { class: "row end" },
      h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"), yes));
  async function go() {
    yes.disabled = true;
    try {
      await act();
      dialog.close();
    } catch (error) {
      replace(problem, failure(error));
      yes.disabled = false;
    }
  }
  document.body.append(dialog);
  dialog.showModal();
  yes.focus();
}

export const ago = (ms) => {
  const s = (Date.now() - ms) / 1000;
  if (s < 90) return `${Math.max(0, Math.round(s))} s ago`;
  if (s < 5400) return `${Math.round(s / 60)} min ago`;
  if (s < 172800) return `${Math.round(s / 3600)} h ago`;
  return new Date(ms).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
};

export function later(wait, work) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), wait);
  };
}

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;

export const count = (n) => n.toLocaleString("en");
