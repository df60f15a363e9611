// Asks the sidecar. The event stream is read with fetch, for EventSource cannot send a token.

class Refusal extends Error {
  constructor(status, detail, kind) {
    super(detail);
    this.status = status;
    this.kind = kind;
  }
}

const wire = {
  token: "",
  headers(more = {}) {
    return this.token ? { Authorization: `Bearer ${this.token}`, ...more } : more;
  },
  async ask(path) {
    const answer = await fetch(path, { headers: this.headers(), cache: "no-store", signal: AbortSignal.timeout(15000) });
    if (!answer.ok) throw await refusal(answer);
    return answer.json();
  },
  async order(path, body) {
    const answer = await fetch(path, {
      method: "POST",
      headers: this.headers({ "Content-Type": "application/json" }),
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(15000),
    });
    if (!answer.ok) throw await refusal(answer);
    return answer.json();
  },
};

async function refusal(answer) {
  let found = {};
  try {
    found = await answer.json();
  } catch {
    // not a problem document, so its status is all there is to tell
  }
  return new Refusal(answer.status, found.detail ?? `the sidecar answers ${answer.status}`, found.kind ?? "");
}

const RETRY = 2000;
const SILENCE = 30000; // a heartbeat comes every ten seconds

// Reads the events for ever, from the one seen last on. `told` gets arrays of {id, kind, said}; `state` is told of the
// connection.
async function listen(told, state) {
  let seen = "";
  for (;;) {
    const ending = new AbortController();
    let silence = setTimeout(() => ending.abort(), SILENCE);
    try {
      state("connecting");
      const answer = await fetch("/v1/events?last=200", {
        headers: wire.headers(seen ? { "Last-Event-ID": seen } : {}),
        cache: "no-store",
        signal: ending.signal,
      });
      if (!answer.ok) throw await refusal(answer);
      state("live");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        clearTimeout(silence);
        silence = setTimeout(() => ending.abort(), SILENCE);
        const blocks = (rest + value).split("\n\n");
        rest = blocks.pop();
        const events = blocks.map(parsed).filter(Boolean);
        if (events.length) {
          seen = events.findLast((event) => event.id)?.id ?? seen;
          told(events);
        }
      }
      state("lost");
    } catch (error) {
      state(error.status === 401 ? "locked" : "lost", error.status ? error.message : "the sidecar does not answer");
    } finally {
      clearTimeout(silence);
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY));
  }
}

function parsed(block) {
  const fields = {};
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    if (at > 0) fields[line.slice(0, at)] = line.slice(at + 1).replace(/^ /, "");
  }
  return fields.data ? { id: fields.id ?? "", kind: fields.event ?? "", said: JSON.parse(fields.data) } : null;
}
