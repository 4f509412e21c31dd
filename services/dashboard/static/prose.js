// The part of Markdown that model cards use, as elements: nothing of it is ever read as HTML.

import { h } from "./dom.js";

export function prose(markdown) {
  const made = [];
  const lines = markdown.split("\n");
  for (let i = 0; i < lines.length;) {
    const line = lines[i];
    if (!line.trim()) i += 1;
    else if (/^#+ /.test(line)) {
      made.push(h("h4", {}, inline(line.replace(/^#+ /, ""))));
      i += 1;
    } else if (line.startsWith("|")) {
      const rows = [];
      for (; i < lines.length && lines[i].startsWith("|"); i += 1) rows.push(cells(lines[i]));
      made.push(table(rows));
    } else if (/^[-*] /.test(line)) {
      const items = [];
      for (; i < lines.length && (/^[-*] /.test(lines[i]) || /^ {2,}\S/.test(lines[i])); i += 1) {
        if (/^[-*] /.test(lines[i])) items.push(lines[i].slice(2));
        else items[items.length - 1] += ` ${lines[i].trim()}`;
      }
      made.push(h("ul", {}, items.map((each) => h("li", {}, inline(each)))));
    } else {
      const words = [];
      for (; i < lines.length && lines[i].trim() && !/^(#|\||[-*] )/.test(lines[i]); i += 1) words.push(lines[i].trim());
      made.push(h("p", {}, inline(words.join(" "))));
    }
  }
  return made;
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((each) => each.trim());

function table([head, ...rows]) {
  const body = rows.filter((row) => !row.every((cell) => /^:?-+:?$/.test(cell)));
  return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Table" }, h("table", {},
    h("thead", {}, h("tr", {}, head.map((cell) => cell ? h("th", { scope: "col" }, inline(cell)) : h("td", {})))),
    h("tbody", {}, body.map((row) => h("tr", {}, row.map((cell) => h("td", {}, inline(cell))))))));
}

function inline(text) {
  return text.split(/(\*\*[^*]+\*\*|`[^`]+`)/).map((part) =>
    part.startsWith("**") ? h("strong", {}, part.slice(2, -2))
      : part.startsWith("`") ? h("code", {}, part.slice(1, -1)) : part);
}
