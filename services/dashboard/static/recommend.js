// A history, what is recommended after it and why, and where both lie in the item space.

import { getJson, newId, query, send } from "./api.js";
import { calm, empty, failure, h, later, replace } from "./dom.js";
import { ItemMap } from "./item-map.js";

const SHOWN = 12;
const SUGGESTED_USERS = 6;
const HISTORY_SHOWN = 24;

export function view(panel) {
  // Either a user, whose history the service keeps, or nobody: then the history is kept here.
  const state = { user: null, history: [], excluded: [], answer: null, before: null, asked: 0 };
  const name = (item) => item.title ?? item.item_id;

  // --- the left column: whose history
  const userInput = h("input", { id: "user", type: "text", autocomplete: "off", spellcheck: "false", placeholder: "user id", list: "users" });
  const users = h("datalist", { id: "users" });
  const suggestions = h("div", { class: "chips", role: "group", "aria-label": "Some users" });
  const search = h("input", { id: "title", type: "search", autocomplete: "off", placeholder: "search titles", role: "combobox", "aria-expanded": "false", "aria-controls": "found", "aria-autocomplete": "list" });
  const found = h("ul", { id: "found", class: "found", role: "listbox", "aria-label": "Titles found", hidden: true });
  const historyTitle = h("h3", {}, "History");
  const historyList = h("ol", { class: "history" });
  const clear = h("button", { type: "button", class: "quiet", onclick: startOver }, "Start over");

  const form = h("form", { class: "field", onsubmit: (event) => { event.preventDefault(); chooseUser(userInput.value.trim()); } },
    h("label", { for: "user" }, "A user"),
    h("div", { class: "row" }, userInput, users, h("button", { type: "submit" }, "Show")),
    suggestions);
  const finder = h("div", { class: "field finder" },
    h("label", { for: "title" }, "Or items somebody liked"), search, found);

  // --- the middle: the list
  const results = h("ol", { class: "results" });
  const note = h("p", { class: "note", "aria-live": "polite" });
  const resultsBody = h("div", {}, results);

  // --- the right: the map
  const map = new ItemMap({ onpick: (item) => add(item) });

  replace(panel,
    h("div", { class: "columns" },
      h("div", { class: "card side" }, h("h2", {}, "Reader"), form, finder,
        h("div", { class: "row between" }, historyTitle, clear), historyList),
      h("div", { class: "card list" }, h("h2", {}, "Recommended"), note, resultsBody),
      h("div", { class: "card map" },
        h("h2", {}, "Item space"), map.element)));

  // --- searching
  let options = [];
  let active = -1;
  const lookUp = later(120, async () => {
    const words = search.value.trim();
    if (!words) return closeFound();
    try {
      const { items } = await getJson(`/v1/items?${query({ q: words, k: 8 })}`);
      if (search.value.trim() !== words) return;
      options = items;
      active = items.length ? 0 : -1;
      drawFound(words);
    } catch (problem) {
      replace(found, h("li", { class: "none" }, problem.detail ?? String(problem)));
      openFound();
    }
  });
  search.addEventListener("input", lookUp);
  search.addEventListener("focus", () => { if (options.length && search.value) openFound(); });
  search.addEventListener("blur", () => setTimeout(closeFound, 150));
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return closeFound();
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && options.length) {
      event.preventDefault();
      active = (active + step + options.length) % options.length;
      drawFound(search.value);
    } else if (event.key === "Enter" && active >= 0 && !found.hidden) {
      event.preventDefault();
      add(options[active]);
    }
  });
  function drawFound(words) {
    replace(found, options.length
      ? options.map((item, i) => h("li", { role: "option", id: `found-${i}`, "aria-selected": i === active, onpointerdown: (event) => { event.preventDefault(); add(item); } },
        h("span", {}, name(item)), h("small", {}, item.item_type)))
      : h("li", { class: "none", role: "option", "aria-disabled": "true", "aria-selected": "false" }, `No title has “${words}”. Try fewer letters.`));
    openFound();
  }
  function openFound() {
    found.hidden = false;
    search.setAttribute("aria-expanded", "true");
    if (active >= 0) search.setAttribute("aria-activedescendant", `found-${active}`);
    else search.removeAttribute("aria-activedescendant");
  }
  function closeFound() {
    found.hidden = true;
    search.setAttribute("aria-expanded", "false");
    search.removeAttribute("aria-activedescendant");
  }

  // --- whose history it is
  async function chooseUser(user) {
    if (!user) return startOver();
    Object.assign(state, { user, history: [], excluded: [], answer: null, before: null });
    userInput.value = user;
    await refresh();
  }
  function startOver() {
    Object.assign(state, { user: null, history: [], excluded: [], answer: null, before: null });
    userInput.value = "";
    refresh();
  }
  async function suggestUsers() {
    try {
      const { users: some } = await getJson("/v1/users?k=50");
      replace(users, some.map((each) => h("option", { value: each })));
      replace(suggestions, some.slice(0, SUGGESTED_USERS).map((each) =>
        h("button", { type: "button", class: "chip", onclick: () => chooseUser(each) }, each)));
    } catch { /* the answer itself will say what is wrong */ }
  }

  // --- what is done with an item
  async function add(item) {
    closeFound();
    search.value = "";
    options = [];
    await act(item, "click");
  }
  async function act(item, type) {
    if (state.user) {
      try {
        const served = state.answer?.items.some((each) => each.item_id === item.item_id);
        await send("/v1/feedback", {
          user_id: state.user, item_id: item.item_id, type, feedback_id: newId(),
          ...(served && { prediction_id: state.answer.prediction_id }),
        });
      } catch (problem) {
        replace(resultsBody, failure(problem, refresh));
        return;
      }
    } else if (type === "click") {
      state.history = [item, ...state.history.filter((each) => each.item_id !== item.item_id)];
    } else {
      state.excluded.push(item.item_id);
      state.history = state.history.filter((each) => each.item_id !== item.item_id);
    }
    await refresh();
    note.textContent = `${type === "click" ? "Clicked" : "Dismissed"} “${name(item)}”. ${change()}`;
  }
  async function forget(item) {
    if (state.user) return act(item, "dismiss");
    state.history = state.history.filter((each) => each.item_id !== item.item_id);
    return refresh();
  }
  function change() {
    const was = new Set((state.before?.items ?? []).map((each) => each.item_id));
    const fresh = (state.answer?.items ?? []).filter((each) => !was.has(each.item_id)).length;
    return was.size ? `${fresh} of ${state.answer.items.length} are new in the list.` : "";
  }

  // --- asking and drawing
  async function refresh() {
    const number = ++state.asked;
    panel.setAttribute("aria-busy", "true");
    try {
      const asking = state.user ? { user_id: state.user }
        : { history: state.history.map((each) => each.item_id).reverse(), exclude: state.excluded };
      const [answer, known] = await Promise.all([
        send("/v1/recommendations", { ...asking, k: SHOWN, explain: true }),
        state.user ? getJson(`/v1/users/${encodeURIComponent(state.user)}/history?k=${HISTORY_SHOWN}`) : null,
      ]);
      if (number !== state.asked) return;
      if (known) {
        const unwanted = new Set(known.hidden.map((each) => each.item_id));
        state.history = known.events.filter((each) => !unwanted.has(each.item_id));
      }
      state.before = state.answer;
      state.answer = answer;
      draw();
    } catch (problem) {
      if (number === state.asked) replace(resultsBody, failure(problem, refresh));
    } finally {
      if (number === state.asked) panel.removeAttribute("aria-busy");
    }
  }

  function draw() {
    const { answer } = state;
    historyTitle.textContent = state.user ? `History of ${state.user}` : "History";
    clear.hidden = !state.user && !state.history.length && !state.excluded.length;
    replace(historyList, state.history.length
      ? state.history.slice(0, HISTORY_SHOWN).map((item) => h("li", {},
        h("span", {}, name(item)),
        item.type && item.type !== "interaction" && h("small", {}, item.type),
        h("button", { type: "button", class: "icon", "aria-label": `Take ${name(item)} out of the history`, title: "Take it out", onclick: () => forget(item) }, "×")))
      : h("li", { class: "none" }, state.user
        ? "Nothing is known of this user: these are the most popular items. Click one, and the next list is theirs."
        : "Empty: these are the most popular items. Search a title above, or click a result."));

    note.textContent = answer.degraded ? answer.degraded_reasons.join("; ")
      : answer.personalised ? "" : "What most people liked, until something is known.";
    note.classList.toggle("warn", answer.degraded);
    if (!answer.items.length) {
      replace(resultsBody, empty("Nothing is left to recommend", "Everything was seen or dismissed. Start over, or pick another user."));
    } else {
      if (!results.isConnected) replace(resultsBody, results);
      const before = places();
      const focused = results.contains(document.activeElement) && {
        rank: [...results.children].findIndex((each) => each.contains(document.activeElement)),
        button: document.activeElement.classList.contains("no") ? ".no" : ".yes",
      };
      const ranks = new Map((state.before?.items ?? []).map((item, rank) => [item.item_id, rank]));
      replace(results, answer.items.map((item, rank) => resultOf(item, rank, ranks)));
      slide(before);
      // Whoever goes on by keyboard goes on at the same place of the list.
      if (focused) results.children[Math.min(focused.rank, results.children.length - 1)]?.querySelector(focused.button)?.focus();
    }
    map.light(state.history.slice(0, HISTORY_SHOWN), answer.items, answer.model_version);
  }

  function resultOf(item, rank, ranks) {
    const moved = !ranks.size ? null
      : !ranks.has(item.item_id) ? h("span", { class: "moved fresh" }, "new")
        : ranks.get(item.item_id) > rank ? h("span", { class: "moved up", title: `was ${ranks.get(item.item_id) + 1}` }, `▲ ${ranks.get(item.item_id) - rank}`)
          : null;
    const reasons = item.reasons ?? [];
    const total = reasons.reduce((sum, each) => sum + each.contribution, 0) || 1;
    return h("li", { class: "result", "data-id": item.item_id,
      onpointerenter: () => map.point(item.item_id), onpointerleave: () => map.point(null),
      onfocusin: () => map.point(item.item_id), onfocusout: () => map.point(null) },
    h("span", { class: "rank", "aria-hidden": "true" }, rank + 1),
    h("div", { class: "what" },
      h("p", { class: "title" }, h("span", {}, name(item)), moved),
      reasons.length > 0 && h("p", { class: "why" }, "because of ", reasons.map((each, i) => [
        i ? ", " : "",
        h("span", { class: "because", title: `${Math.round((100 * each.contribution) / total)} % of what brought it` }, each.title ?? each.item_id)])),
      (item.corrections ?? []).map((each) => h("p", { class: "correction" },
        h("span", { "aria-hidden": "true" }, each.added > 0 ? "↑ " : "↓ "),
        `${each.by === "memory" ? `corrected by ${each.errors ? `${each.errors} recent error${each.errors === 1 ? "" : "s"}` : "what is remembered"}` : `${each.added > 0 ? "raised" : "lowered"} by ${each.by}`} (${each.added > 0 ? "+" : "−"}${Math.abs(each.added).toFixed(2)})`))),
    h("div", { class: "actions" },
      h("button", { type: "button", class: "icon yes", "aria-label": `Click ${name(item)}`, title: "Click: more like it", onclick: () => act(item, "click") }, "+"),
      h("button", { type: "button", class: "icon no", "aria-label": `Dismiss ${name(item)}`, title: "Dismiss: hide it", onclick: () => act(item, "dismiss") }, "×")));
  }

  // Items that stay in the list glide to their new place.
  const places = () => new Map([...results.children].map((each) => [each.dataset.id, each.getBoundingClientRect().top]));
  function slide(before) {
    if (calm() || !before.size) return;
    for (const each of results.children) {
      const was = before.get(each.dataset.id);
      const frames = was === undefined ? [{ opacity: 0, transform: "translateX(12px)" }, { opacity: 1, transform: "none" }]
        : [{ transform: `translateY(${was - each.getBoundingClientRect().top}px)` }, { transform: "none" }];
      each.animate(frames, { duration: 320, easing: "cubic-bezier(.2,.8,.2,1)" });
    }
  }

  suggestUsers();
  refresh();
  return { shown: () => map.resize() };
}
