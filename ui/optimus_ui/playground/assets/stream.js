// Server-sent events by fetch: EventSource can neither POST nor send a key.
const root = new URL("../", location.href);

// What people typed where the page asks for a key; null if it does not ask. `keyed` is written before the script.
function secret() {
  return keyed ? (document.querySelector("#key input")?.value ?? "") : null;
}

async function open(path, body, signal) {
  const key = secret();
  const headers = body ? {"content-type": "application/json"} : {};
  if (key) headers.authorization = `Bearer ${key}`;
  const method = body ? "POST" : "GET";
  const response = await fetch(new URL(path, root), {method, headers, body: body && JSON.stringify(body), signal});
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    const error = new Error(said.error?.message || said.error || `the server answers ${response.status}`);
    throw Object.assign(error, {status: response.status});
  }
  return response;
}

// Calls `told` with the payload of each event, and with the event as it came.
async function read(response, told) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const events = (rest + value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
      if (data) told(data === "[DONE]" ? {} : JSON.parse(data), event);
    }
  }
}
