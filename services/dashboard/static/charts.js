// Small charts as SVG. Colours are classes, so that both themes hold; every chart says in words
// what it shows.

import { percent, s } from "./dom.js";

const W = 600;

// Shares of classes over time, stacked to one. bins: [{total, counts: Map(label → n)}]
export function stackedShares(bins, labels, fill, { from, to }) {
  const height = 190;
  const bottom = 22;
  const step = W / Math.max(bins.length, 1);
  const area = [];
  bins.forEach(({ total, counts }, i) => {
    let below = 0;
    for (const label of labels) {
      const share = total ? (counts.get(label) ?? 0) / total : 0;
      if (!share) continue;
      const top = (height - bottom) * (1 - below - share);
      area.push(s("rect", { class: fill(label), x: i * step, y: top, width: Math.max(step - 1, 0.5), height: (height - bottom) * share }));
      below += share;
    }
  });
  const newest = bins.filter((each) => each.total).at(-1);
  const said = newest ? labels.map((label) => `${label} ${percent((newest.counts.get(label) ?? 0) / newest.total)}`).join(", ") : "no flows yet";
  return s("svg", { class: "chart", viewBox: `0 0 ${W} ${height}`, role: "img", "aria-label": `Class mix over time; lately ${said}` },
    s("line", { class: "grid", x1: 0, x2: W, y1: height - bottom, y2: height - bottom }), area,
    s("text", { x: 0, y: height - 6 }, from), s("text", { x: W, y: height - 6, "text-anchor": "end" }, to));
}

// counts: of equal bins over [0, 1]
export function histogram(counts, { threshold } = {}) {
  const height = 190;
  const bottom = 22;
  const most = Math.max(1, ...counts);
  const step = W / counts.length;
  return s("svg", { class: "chart", viewBox: `0 0 ${W} ${height}`, role: "img", "aria-label": `Confidence of the verdicts: ${counts.map((n, i) => `${n} from ${percent(i / counts.length)}`).filter((_, i) => counts[i]).join(", ") || "none yet"}` },
    counts.map((n, i) => s("rect", { class: "fb", x: i * step + 1.5, width: step - 3, rx: 2, y: (height - bottom) * (1 - n / most), height: (height - bottom) * (n / most) })),
    threshold !== undefined && s("line", { class: "threshold", x1: threshold * W, x2: threshold * W, y1: 0, y2: height - bottom }),
    s("line", { class: "grid", x1: 0, x2: W, y1: height - bottom, y2: height - bottom }),
    [0, 0.5, 1].map((share) => s("text", { x: share * W, y: height - 6, "text-anchor": { 0: "start", 1: "end" }[share] ?? "middle" }, percent(share))));
}

// A flow's confidence after each of its packets; verdicts: [{packet, confidence, label, guess}]
export function flowLife(verdicts, fill, limit) {
  const height = 170;
  const [left, bottom, top] = [34, 24, 8];
  const last = Math.max(limit, verdicts.at(-1)?.packet ?? 1, 2);
  const x = (packet) => left + ((W - left - 8) * (packet - 1)) / (last - 1);
  const y = (confidence) => top + (height - bottom - top) * (1 - confidence);
  const said = verdicts.map((each) => `after packet ${each.packet} ${each.label} at ${percent(each.confidence)}`).join("; ");
  return s("svg", { class: "chart", viewBox: `0 0 ${W} ${height}`, role: "img", "aria-label": `Confidence packet by packet: ${said}` },
    [0, 0.5, 1].map((share) => [
      s("line", { class: "grid", x1: left, x2: W, y1: y(share), y2: y(share) }),
      s("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, percent(share))]),
    s("polyline", { class: "line", points: verdicts.map((each) => `${x(each.packet)},${y(each.confidence)}`).join(" ") }),
    verdicts.map((each) => s("circle", { class: fill(each.label), cx: x(each.packet), cy: y(each.confidence), r: each.final ? 7 : 4.5 })),
    s("text", { x: left, y: height - 5 }, "packet 1"), s("text", { x: W - 8, y: height - 5, "text-anchor": "end" }, `packet ${last}`));
}

// A line over time; points: [[seconds, value]]
export function line(points, { said, unit = (value) => value.toFixed(2), others = [] }) {
  const height = 170;
  const [left, bottom, top] = [48, 22, 8];
  const every = [points, ...others.map((each) => each.points)].flat();
  const [begin, end] = [Math.min(...every.map((p) => p[0])), Math.max(...every.map((p) => p[0]))];
  const values = every.map((p) => p[1]);
  const low = Math.min(0, ...values);
  const high = Math.max(...values, low + 1e-9);
  const at = ([t, v]) => `${left + ((W - left) * (t - begin)) / Math.max(end - begin, 1e-9)},${top + (height - bottom - top) * (1 - (v - low) / (high - low))}`;
  const drawn = (some, name) => s("polyline", { class: `line ${name}`, points: some.map(at).join(" ") });
  return s("svg", { class: "chart", viewBox: `0 0 ${W} ${height}`, role: "img", "aria-label": said },
    s("line", { class: "grid", x1: left, x2: W, y1: height - bottom, y2: height - bottom }),
    s("line", { class: "grid", x1: left, x2: W, y1: top, y2: top }),
    s("text", { x: left - 6, y: height - bottom + 4, "text-anchor": "end" }, unit(low)),
    s("text", { x: left - 6, y: top + 8, "text-anchor": "end" }, unit(high)),
    others.map((each) => drawn(each.points, each.name)), drawn(points, "main"));
}
