// Small charts as SVG. Colours are classes, so that both themes hold; every chart says in words
// what it shows.

import { percent, s } from "./dom.js";

// A drawing is as wide as its place is about to be, so that its words keep their size.
const PHONE = 720;
const ONE_COLUMN = 1180;
const width = ({ narrow = false } = {}) => innerWidth <= PHONE ? 340 : innerWidth <= ONE_COLUMN ? 900 : narrow ? 450 : 720;

// How many flows of each class, over time. bins: [{total, counts: Map(label → n)}]
export function classMix(bins, labels, fill, { from, to }) {
  const W = width();
  const height = 190;
  const [left, bottom] = [26, 22];
  const step = (W - left) / Math.max(bins.length, 1);
  const most = Math.max(1, ...bins.map((each) => each.total));
  const unit = (height - bottom - 8) / most;
  const bars = [];
  bins.forEach(({ counts }, i) => {
    let below = height - bottom;
    for (const label of labels) {
      const tall = (counts.get(label) ?? 0) * unit;
      if (!tall) continue;
      below -= tall;
      bars.push(s("rect", { class: fill(label), x: left + i * step + 0.75, y: below, width: Math.max(step - 1.5, 0.5), height: tall }));
    }
  });
  const newest = bins.filter((each) => each.total).at(-1);
  const said = newest ? labels.map((label) => `${label} ${percent((newest.counts.get(label) ?? 0) / newest.total)}`).join(", ") : "no flows yet";
  return s("svg", { class: "chart", viewBox: `0 0 ${W} ${height}`, role: "img", "aria-label": `Class mix over time; lately ${said}` },
    s("line", { class: "grid", x1: left, x2: W, y1: 8, y2: 8 }), s("text", { x: left - 5, y: 12, "text-anchor": "end" }, most),
    s("line", { class: "grid", x1: left, x2: W, y1: height - bottom, y2: height - bottom }), bars,
    s("text", { x: left, y: height - 6 }, from), s("text", { x: W, y: height - 6, "text-anchor": "end" }, to));
}

// counts: of equal bins over [0, 1]
export function histogram(counts, { threshold } = {}) {
  const W = width({ narrow: true });
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
  const W = width({ narrow: true });
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

const many = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

// Two errors over time, and when a version was published or a detector rang.
// points: [{time_ms, before, after, version}]
export function beforeAndAfter(points, { retrained, alarms }) {
  const W = width();
  const height = 190;
  const [left, bottom, top] = [44, 24, 10];
  const [begin, end] = [points[0].time_ms, points.at(-1).time_ms];
  const high = 1.08 * Math.max(...points.flatMap((p) => [p.before, p.after]), 1e-9);
  // Outcomes come in bursts: they are laid out in their order, and marks between them.
  const x = (i) => left + ((W - left - 6) * i) / (points.length - 1);
  const y = (loss) => top + (height - bottom - top) * (1 - loss / high);
  const at = (ms) => x(Math.max(0, points.findIndex((p) => p.time_ms >= ms)));
  const drawn = (name) => points.map((p, i) => `${x(i)},${y(p[name])}`).join(" ");
  const gained = `${drawn("before")} ${points.map((p, i) => `${x(i)},${y(p.after)}`).reverse().join(" ")}`;
  const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  const mean = (name) => points.reduce((sum, p) => sum + p[name] * p.outcomes, 0) / points.reduce((sum, p) => sum + p.outcomes, 0);
  const within = (ms) => ms >= begin && ms <= end;
  const upright = (ms, name) => s("line", { class: name, x1: at(ms), x2: at(ms), y1: top, y2: height - bottom });
  return s("svg", { class: "chart", viewBox: `0 0 ${W} ${height}`, role: "img", "aria-label": `Log loss of the model's own predictions ${mean("before").toFixed(3)}, corrected ${mean("after").toFixed(3)}; retrained ${many(retrained.length, "time")}, ${many(alarms.length, "drift alarm")}` },
    [0, 0.5, 1].map((share) => [
      s("line", { class: "grid", x1: left, x2: W - 6, y1: y(share * high / 1.08), y2: y(share * high / 1.08) }),
      s("text", { x: left - 6, y: y(share * high / 1.08) + 4, "text-anchor": "end" }, (share * high / 1.08).toFixed(2))]),
    s("polygon", { class: "gain", points: gained }),
    s("polyline", { class: "line before", points: drawn("before") }),
    s("polyline", { class: "line after", points: drawn("after") }),
    retrained.filter((each) => within(each.time_ms)).map((each) => upright(each.time_ms, "mark")),
    alarms.filter(within).map((ms) => upright(ms, "alarm")),
    s("text", { x: left, y: height - 6 }, clock(begin)), s("text", { x: W - 6, y: height - 6, "text-anchor": "end" }, clock(end)));
}
