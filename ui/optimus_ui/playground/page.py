"""The playground: Gradio for the controls, and one component of our own in which the answer is seen to form.

No handler runs on the server: the buttons call the page's own script, which reads the same HTTP API as any application.
"""

from importlib.resources import files

import gradio as gr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

EXAMPLES = {
    "How does diffusion decoding work?": "How does diffusion decoding work?",
    "Tell a story about a fox": "Write a short story about a fox.",
    "Write a Python function": "Write a Python function that adds two numbers.",
    "Sort numbers": "Sort these numbers: 42, 7, 19, 3.",
}
"""Label -> prompt; the demo model answers each of them well."""

GENERATE = "(...controls) => { window.optimus.generate(...controls); }"
STOP = "() => { window.optimus.stop(); }"

INTRODUCTION = """\
# Optimus playground
A diffusion model fills many masked places in one step, and keeps what it is sure of. Optimus chooses at every step \
how many places it tries: the **chunk**. Press an example and watch."""


def mount(app: Starlette, *, needs_key: bool) -> None:
    """Serve the page under /playground/; nothing else may be mounted after it.

    Args:
        needs_key: whether people are asked for an API key, which stays in their page.
    """
    # Browsers ask for it unasked, and show a 404 as an error.
    app.add_route("/favicon.ico", no_icon)
    # Typed for FastAPI, but it only mounts and wraps the lifespan: tests/playground holds that.
    gr.mount_gradio_app(
        app,
        build(needs_key=needs_key),
        path="/playground",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        # Gradio's themes name web fonts; the system's need no request.
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=asset("page.css"),
    )


def no_icon(request: Request) -> Response:
    return Response(status_code=204)


def build(*, needs_key: bool) -> gr.Blocks:
    page = gr.Blocks(title="Optimus playground", analytics_enabled=False, fill_width=True)
    with page:
        gr.Markdown(INTRODUCTION)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=300):
                prompt = gr.Textbox(label="Prompt", lines=2, max_lines=8, elem_id="prompt", value="What is a chunk?")
                with gr.Row(elem_id="examples"):
                    chips = [(gr.Button(label, size="sm"), text) for label, text in EXAMPLES.items()]
                with gr.Row():
                    generate = gr.Button("Generate", variant="primary", elem_id="generate")
                    stop = gr.Button("Stop", variant="stop", elem_id="stop")
                chunk = gr.Radio(
                    ["auto", "1", "2", "4", "8", "16", "32"],
                    value="auto",
                    label="Chunk: places tried in one step",
                    info="auto: chosen again at every step, by load and by how sure the model is",
                    elem_id="chunk",
                )
                length = gr.Slider(1, 1024, value=256, step=1, label="Max tokens")
                temperature = gr.Slider(0, 1.5, value=0, step=0.1, label="Temperature", info="0: always the best token")
                key = gr.Textbox(label="API key", type="password", visible=needs_key, elem_id="key")
            with gr.Column(scale=2, min_width=320):
                gr.HTML(
                    html_template=asset("canvas.html"),
                    css_template=asset("canvas.css"),
                    js_on_load=script(),
                    elem_id="run",
                    apply_default_css=False,
                )
        controls = [prompt, length, temperature, chunk, key]
        generate.click(None, controls, None, js=GENERATE)
        prompt.submit(None, controls, None, js=GENERATE)
        stop.click(None, None, None, js=STOP)
        for chip, text in chips:
            chip.click(None, None, prompt, js=f"() => {text!r}").then(None, controls, None, js=GENERATE)
    return page


def script() -> str:
    """The component's script: the body of one function, so its files share their names and nothing leaks."""
    return "\n".join(asset(name) for name in ("stream.js", "run.js", "cells.js", "strip.js", "main.js"))


def asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text()
