// Server-sent events over fetch: what EventSource does, and besides it sees heartbeats (a link that died without
// a word is noticed) and refusals. It comes back with the id of the last event, so that nothing is missed.

const SILENCE = 40_000; // ms; the aggregator says something every 15 s
const LONGEST = 4_000; // ms between two tries

/** Calls `told(event)` for each event and `linked(true | false)` when the link is up or down, for good.
 *  A 401 calls `refused()` and ends it. */
export async function watch(url, { told, linked, refused }) {
  let last = null;
  let pause = 500;
  for (;;) {
    const gone = new AbortController();
    let timer = setTimeout(() => gone.abort(), SILENCE);
    try {
      const headers = last === null ? {} : { "Last-Event-ID": last };
      const reply = await fetch(url, { headers, signal: gone.signal, cache: "no-store" });
      if (reply.status === 401) return refused();
      if (!reply.ok) throw new Error(`status ${reply.status}`);
      linked(true);
      pause = 500;
      for await (const { id, data } of frames(reply.body)) {
        clearTimeout(timer);
        timer = setTimeout(() => gone.abort(), SILENCE);
        if (!data) continue;
        told(JSON.parse(data));
        last = id;
      }
    } catch {
      // Down, refused or silent: all the same here, it is tried again.
    } finally {
      clearTimeout(timer);
      gone.abort();
    }
    linked(false);
    await new Promise((over) => setTimeout(over, pause));
    pause = Math.min(pause * 1.6, LONGEST);
  }
}

async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pieces = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    if (!value.includes("\n\n") && !pieces.at(-1)?.endsWith("\n")) {
      pieces.push(value); // a frame of megabytes comes in many
      continue;
    }
    const parts = (pieces.join("") + value).split("\n\n");
    pieces = [parts.pop()];
    for (const part of parts) yield parsed(part);
  }
}

function parsed(frame) {
  const fields = {};
  for (const line of frame.split("\n")) {
    const at = line.indexOf(": ");
    if (at > 0) fields[line.slice(0, at)] = line.slice(at + 2);
  }
  return fields;
}
