// The same request for a shell and for Python, and the events that came back.
function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl(body) {
  return [
    `curl -N ${shell(new URL("v1/chat/completions", root).href)}`,
    `-H 'content-type: application/json'`,
    ...(keyed ? [`-H "authorization: Bearer $OPTIMUS_API_KEY"`] : []),
    `-d ${shell(JSON.stringify(body))}`,
  ].join(" \\\n  ");
}

// A JSON value of numbers, strings, lists and objects reads the same in Python.
function python(body) {
  const {messages, diffusion, max_tokens: length, temperature, seed} = body;
  return `${keyed ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(new URL("v1", root).href)}, api_key=${keyed ? `os.environ["OPTIMUS_API_KEY"]` : `"-"`})
stream = client.chat.completions.create(
    model="any",
    messages=${JSON.stringify(messages)},
    max_tokens=${length},
    temperature=${temperature},${seed === undefined ? "" : `\n    seed=${seed},`}
    stream=True,
    extra_body={"diffusion": ${JSON.stringify(diffusion)}},
)
for event in stream:
    if event.choices:
        print(event.choices[0].delta.content or "", end="", flush=True)
    # What each step tried and kept: event.diffusion
`;
}

class Wire {
  constructor(drawers) {
    this.drawers = drawers;
    for (const drawer of drawers) {
      drawer.addEventListener("toggle", () => this.fill(drawer));
      drawer.querySelector("button").addEventListener("click", (event) => copy(event.target, drawer.querySelector("pre")));
    }
  }

  show(run) {
    this.run = run;
    for (const drawer of this.drawers) this.fill(drawer);
  }

  // Only what is open: the events of a long answer are many.
  fill(drawer) {
    const text = drawer.querySelector("pre");
    if (!drawer.open) return;
    if (!this.run) {
      text.textContent = "Press Generate first.";
      return;
    }
    const {body, events, kept} = this.run;
    text.textContent = {
      curl: () => curl(body),
      python: () => python(body),
      events: () => events.join("\n\n") + (kept > KEPT_EVENTS ? "\n\n(and more)" : ""),
    }[drawer.dataset.drawer]();
  }
}

// Without TLS a browser has no clipboard to write to: the text is selected instead.
async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(text);
    button.textContent = "Selected: press Ctrl C";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
}
