// Flows as their verdicts arrive. A verdict that comes twice counts once.

const MOST_FLOWS = 5000;
const BINS = 40;
const LIVE_SPAN_S = 60;

export class Flows {
  constructor(name, { live = false } = {}) {
    this.name = name;
    this.live = live;
    this.clear();
  }

  clear() {
    this.flows = new Map(); // prediction_id → flow, oldest first
    this.changes = 0;
    this.elsewhere = new Set(); // shown in another list; their verdicts may still arrive here
  }

  add(verdict, arrived = Date.now() / 1000) {
    if (this.elsewhere.has(verdict.prediction_id)) return;
    let flow = this.flows.get(verdict.prediction_id);
    if (!flow) {
      flow = { id: verdict.prediction_id, verdicts: new Map(), final: null, at: 0, last: verdict };
      this.flows.set(flow.id, flow);
      if (this.flows.size > MOST_FLOWS) this.flows.delete(this.flows.keys().next().value);
    }
    const key = `${verdict.packet}${verdict.final ? "!" : ""}`;
    if (flow.verdicts.has(key)) return;
    flow.verdicts.set(key, verdict);
    flow.last = verdict;
    flow.at = this.live ? arrived : verdict.time;
    if (verdict.final) flow.final = verdict;
    if (verdict.model_version) this.version = verdict.model_version;
    this.changes += 1;
  }

  remove(ids) {
    for (const id of ids) this.flows.delete(id);
    this.elsewhere = new Set(ids);
    this.changes += 1;
  }

  // A flow's verdicts in order, the final one in place of a provisional one after the same packet.
  static life(flow) {
    const by = new Map();
    for (const each of flow.verdicts.values()) if (!by.get(each.packet)?.final) by.set(each.packet, each);
    return [...by.values()].sort((a, b) => a.packet - b.packet);
  }

  summary(now = Date.now() / 1000) {
    const done = [...this.flows.values()].filter((flow) => flow.final);
    const labels = new Map();
    const confidence = new Array(20).fill(0);
    let sum = 0;
    for (const { final } of done) {
      labels.set(final.label, (labels.get(final.label) ?? 0) + 1);
      confidence[Math.min(19, Math.floor(final.confidence * 20))] += 1;
      sum += final.confidence;
    }
    let begin = now - LIVE_SPAN_S;
    let end = now;
    if (!this.live) {
      begin = Math.min(...done.map((flow) => flow.at));
      end = Math.max(...done.map((flow) => flow.at));
    }
    const span = Math.max(end - begin, 1e-6);
    const bins = Array.from({ length: BINS }, () => ({ total: 0, counts: new Map() }));
    let within = 0;
    for (const { at, final } of done) {
      if (at < begin || at > end) continue;
      const bin = bins[Math.min(BINS - 1, Math.floor((BINS * (at - begin)) / span))];
      bin.total += 1;
      bin.counts.set(final.label, (bin.counts.get(final.label) ?? 0) + 1);
      if (!this.live || at > now - 5) within += 1;
    }
    return {
      flows: this.flows.size,
      done: done.length,
      perSecond: done.length ? within / (this.live ? 5 : Math.max(span, 1)) : 0,
      unknown: done.length ? (labels.get("unknown") ?? 0) / done.length : 0,
      confidence: done.length ? sum / done.length : 0,
      labels: new Map([...labels].sort((a, b) => b[1] - a[1])),
      histogram: confidence,
      bins,
      span,
    };
  }
}
