// The page's behaviour: one run at a time, painted at most once a frame.
const find = (name) => element.querySelector(name);
const home = find(".optimus"), template = find("template.pane");
const live = new Server(find(".server")), wire = new Wire(element.querySelectorAll(".drawer"));
const current = new Pane(template, find(".panes"));
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const SHORT_MS = 2000, PATIENCE_MS = 8000;
let pinned = null, running = null, due = 0, playing = 0;

function refresh() {
  due ||= requestAnimationFrame(() => {
    due = 0;
    if (current.run) current.latest();
  });
}

function title(run) {
  const others = Math.max(0, ...run.steps.map((told) => told.batch - 1));
  return `Chunk ${run.chunk}${run.ended ? (others ? `, beside up to ${others}` : ", alone") : ""}`;
}

// Runs a conversation to its next answer; true if that came to its end.
async function go(messages, length, temperature, seed, chunk) {
  halt();
  const mine = (running = new AbortController());
  home.dataset.run = "running";
  for (const name of [".problem", ".said"]) find(name).textContent = "";
  const body = {
    messages, temperature, max_tokens: length, stream: true, stream_options: {include_usage: true},
    diffusion: {events: "steps", chunk: chunk === "auto" ? chunk : Number(chunk)},
  };
  // What is no number is refused by the server, which says so.
  if (seed) body.seed = /^\d{1,15}$/.test(seed) ? Number(seed) : seed;
  try {
    const whole = await (await open("chat_tokenize", {messages}, mine.signal)).json();
    if (mine !== running) return false;
    const run = new Run(body, whole.tokenize_response.length, live.block);
    current.take(run, title(run));
    if (home.getBoundingClientRect().top > innerHeight / 2) {
      find(".panes").scrollIntoView({behavior: calm.matches ? "auto" : "smooth"});
    }
    wire.show(run);
    await read(await open("v1/chat/completions", body, mine.signal), (event, raw) => {
      if (event.error) throw new Error(event.error.message || event.error);
      if (mine !== running) return;
      run.take(event, raw);
      refresh();
    });
    if (mine !== running) return false;
    find(".said").textContent = run.text;
    finish("done");
    return true;
  } catch (error) {
    if (mine === running && error.name !== "AbortError") {
      find(".problem").textContent = error.message;
      finish("done");
    }
    return false;
  }
}

function finish(state) {
  running = null;
  const {run} = current;
  if (run && !run.ended) {
    run.ended = true;
    current.part("title").textContent = title(run);
    current.latest();
    current.numbers();
    current.enable();
    wire.show(run);
    // The scale of all strips may have grown.
    if (pinned) pinned.paint(Number(pinned.slider.value));
    judge();
  }
  home.dataset.run = state;
}

function halt() {
  still();
  if (!running) return;
  running.abort();
  finish("stopped");
}

// A demo's answer takes less time than a look: what was short is shown again, as slowly as patience allows.
function again() {
  const {run} = current, pace = current.part("pace");
  const longest = Math.max(run?.total ?? 0, pinned?.run.total ?? 0);
  if (calm.matches || run.steps.length < 2 || longest > SHORT_MS) return;
  pace.value = [...pace.options].map((option) => option.value).findLast((slow) => slow * longest < PATIENCE_MS) ?? "1";
  replay(Number(pace.value));
}

async function generate(prompt, mode, ...rest) {
  const messages = talk.messages(prompt, mode === "chat"), ended = await go(messages, ...rest), {run} = current;
  // An answer that was stopped counts as far as it came.
  if (mode === "chat" && run?.body.messages === messages && run.text) talk.add(messages, run.text);
  if (ended) again();
}

// The same prompt twice: with a fixed chunk, the smallest if none is chosen, and with auto.
async function compare(prompt, mode, length, temperature, seed, chunk) {
  const smallest = document.querySelector("#chunk input:not([value=auto])")?.value ?? "1";
  const asked = [talk.messages(prompt, mode === "chat"), length, temperature, seed];
  unpin();
  if (!(await go(...asked, chunk === "auto" ? smallest : chunk))) return;
  pin();
  if (await go(...asked, "auto")) again();
}

function pin() {
  pinned ||= new Pane(template, find(".panes"));
  find(".panes").prepend(pinned.root);
  pinned.part("pin").onclick = unpin;
  pinned.part("pin").textContent = "Unpin";
  home.classList.add("two");
  pinned.strip.paper.fit();
  pinned.take(current.run, `Pinned: ${title(current.run).toLowerCase()}`);
  judge();
}

function unpin() {
  pinned?.root.remove();
  pinned = null;
  home.classList.remove("two");
  if (current.run) current.paint(current.run.steps.length);
  judge();
}

// Both runs in a sentence each, in the server's own figures.
function judge() {
  const before = pinned?.run, after = current.run, both = before?.summary && after?.summary && before !== after;
  find(".verdict").hidden = !both;
  if (!both) return;
  const words = (run) =>
    `${title(run).toLowerCase()}: ${run.usage.completion_tokens} tokens in ${run.summary.steps} steps, ` +
    `${run.summary.tokens_per_step.toFixed(1)} a step, ${run.total.toFixed(0)} ms`;
  find(".verdict").textContent = `Pinned: ${words(before)}. This run: ${words(after)}.`;
}

// All panes from the beginning, by the clock of their runs, `slow` times slower.
function replay(slow) {
  still();
  const panes = [pinned, current].filter((pane) => pane?.run?.ended), began = performance.now();
  for (const pane of panes) pane.part("play").textContent = "❚❚ Pause";
  const tick = (now) => {
    const ms = (now - began) / slow;
    for (const pane of panes) pane.paint(pane.run.at(ms));
    playing = panes.some((pane) => ms < pane.run.total) ? requestAnimationFrame(tick) : 0;
    if (!playing) still();
  };
  playing = requestAnimationFrame(tick);
}

function still() {
  cancelAnimationFrame(playing);
  playing = 0;
  for (const pane of [pinned, current]) if (pane) pane.part("play").textContent = "▶ Replay";
}

function dress() {
  colors.read();
  for (const pane of [pinned, current]) {
    pane?.strip.paper.fit();
    if (pane?.run) pane.paint(Number(pane.slider.value));
  }
  live.paper.fit();
  live.draw();
}

current.part("pin").textContent = "Pin, to compare";
current.part("pin").addEventListener("click", pin);
current.part("title").textContent = "The answer, place by place";
new MutationObserver(dress).observe(document.body, {attributes: true, attributeFilter: ["class"]});
new ResizeObserver(dress).observe(home);
document.addEventListener("visibilitychange", () => (document.hidden ? live.rest() : live.watch()));
colors.read();
live.introduce().catch(() => {});
live.watch();
window.optimus = {
  generate: (...controls) => {
    generate(...controls);
    return controls[1] === "chat" ? "" : controls[0];
  },
  compare: (...controls) => void compare(...controls),
  load: (count) => void live.add(Number(count)),
  stop: halt,
};
