// The service's routes. Failures are RFC 9457 problem documents and become `Problem`s.

const KEY = "errata-key";

export class Problem extends Error {
  constructor({ status = 0, title, detail }) {
    super(detail);
    Object.assign(this, { status, title, detail });
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

// Opens the key dialog: `asked` by the reader, or by an answer that came without one.
export const wantKey = (detail = { asked: true }) =>
  document.dispatchEvent(new CustomEvent("key-wanted", { detail }));

async function ask(path, { method = "GET", body, json, signal, accept = "application/json" } = {}) {
  const headers = { accept };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (json !== undefined) {
    headers["content-type"] = "application/json";
    body = JSON.stringify(json);
  } else if (body) headers["content-type"] = "application/octet-stream";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({
      title: "The service does not answer",
      detail: "It may have been stopped: start it again with `errata serve`, then try again.",
    });
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401) wantKey({ asked: false });
  throw new Problem({
    status: answer.status,
    title: problem.title ?? `Answered with ${answer.status}`,
    detail: problem.detail ?? "The service's log says more.",
  });
}

export const getJson = async (path, options) => (await ask(path, options)).json();

export const getText = async (path) => (await ask(path, { accept: "text/plain, text/markdown" })).text();

export const send = async (path, json, method = "POST") => (await ask(path, { method, json })).json();

export const upload = async (path, file) => (await ask(path, { method: "POST", body: file })).json();

export const query = (values) => new URLSearchParams(
  Object.entries(values).flatMap(([name, value]) => [value].flat().map((each) => [name, each])),
).toString();

// Server-sent events through fetch, which unlike EventSource can show a key.
export async function listen(path, { signal, onopen, onevent }) {
  const answer = await ask(path, { signal, accept: "text/event-stream" });
  onopen();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (waiting + value).split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      let kind = "message";
      const data = [];
      for (const line of block.split("\n")) {
        if (line.startsWith("event:")) kind = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).trim());
        else if (line.startsWith(":")) onevent("comment", line.slice(1).trim());
      }
      if (data.length) onevent(kind, JSON.parse(data.join("\n")));
    }
  }
}

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
