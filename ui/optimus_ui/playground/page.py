"""The playground: Gradio for the controls, and one component of our own in which the answer is seen to form.

No handler runs on the server: the buttons call the page's own script, which reads the same HTTP API as any application.
"""

import asyncio
from collections.abc import Callable, Sequence
from importlib.resources import files

import gradio as gr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

EXAMPLES = {
    "Explain diffusion": "How does diffusion decoding work?",
    "Tell a long story": "Write a long story about a fox.",
    "Turn text into JSON": "Turn this into JSON: Anna is 31 years old and lives in Rome.",
    "Solve a sum": "Mia has 12 apples and buys 30 more. How many apples does she have?",
}
"""Label -> prompt. The demo model answers each of them well. A story is hard to predict: its steps keep few tokens."""

LOADS = (0, 4, 16, 64)
SCRIPTS = ("stream", "run", "cells", "strip", "pane", "wire", "server", "chat", "main")
"""In the order of their dependencies: together they are the body of one function."""

INTRODUCTION = """\
# Optimus: see a diffusion model write
It does not write word by word: each **step** tries many masked places at once and keeps the tokens it is sure of. \
How many it tries is the **chunk**. Optimus chooses it anew at every step: large while the server is idle, small \
when it is busy. That is *elastic decoding*."""


def mount(app: Starlette, *, needs_key: bool, chunks: Sequence[int], longest: int, load: int) -> None:
    """Serve the page under /playground/; nothing else may be mounted after it.

    Args:
        needs_key: whether people are asked for an API key, which stays in their page.
        chunks: sizes to choose from, besides ``auto``.
        longest: tokens of prompt and answer together.
        load: background requests a visitor may ask for at POST /playground/load; 0 if there is no such route.
    """
    # Browsers ask for it unasked, and show a 404 as an error.
    app.add_route("/favicon.ico", no_icon)

    def mounted() -> None:
        # Typed for FastAPI, but it only mounts and wraps the lifespan: tests/playground holds that.
        gr.mount_gradio_app(
            app,
            build(needs_key=needs_key, chunks=chunks, longest=longest, load=load),
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

    in_a_loop(mounted)


def in_a_loop(build: Callable[[], None]) -> None:
    """Call it where an event loop runs: where none does, Gradio makes several and closes none (``safe_get_lock``)."""

    async def run() -> None:
        build()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(run())
    else:
        build()


def no_icon(request: Request) -> Response:
    return Response(status_code=204)


def build(*, needs_key: bool, chunks: Sequence[int], longest: int, load: int) -> gr.Blocks:
    """The page; see ``mount``."""
    page = gr.Blocks(title="Optimus playground", analytics_enabled=False, fill_width=True)
    with page:
        gr.Markdown(INTRODUCTION, elem_id="introduction")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=300, elem_id="controls"):
                gr.HTML(html_template=asset("talk.html"), elem_id="talk", apply_default_css=False)
                prompt = gr.Textbox(
                    label="Prompt",
                    lines=2,
                    max_lines=8,
                    elem_id="prompt",
                    value=next(iter(EXAMPLES.values())),
                    info="Shift and Enter send it",
                )
                with gr.Row(elem_id="examples"):
                    chips = [(gr.Button(label, size="sm"), text) for label, text in EXAMPLES.items()]
                with gr.Row(elem_id="actions"):
                    generate = gr.Button("Generate", variant="primary", elem_id="generate")
                    stop = gr.Button("Stop", variant="stop", elem_id="stop")
                chunk = gr.Radio(
                    ["auto", *map(str, chunks)],
                    value="auto",
                    label="Chunk: places tried in one step",
                    info="auto: Optimus chooses it at every step, by load and by how sure the model is",
                    elem_id="chunk",
                )
                compare = gr.Button("Compare a fixed chunk with auto", size="sm", elem_id="compare")
                background = gr.Radio(
                    [str(count) for count in LOADS if count <= load],
                    value="0",
                    label="Add load: other requests beside yours",
                    info="Then generate again: the chunk shrinks. They end by themselves and make way for clients.",
                    visible=load > 0,
                    elem_id="load",
                )
                mode = gr.Radio(
                    ["single prompt", "chat"],
                    value="single prompt",
                    label="Conversation",
                    info="chat: the model sees the conversation so far",
                    elem_id="mode",
                )
                with gr.Accordion("More settings", open=False, elem_id="more"):
                    length = gr.Slider(
                        1, longest - 1, value=min(384, longest - 1), step=1, label="Max tokens", elem_id="length"
                    )
                    temperature = gr.Slider(
                        0, 1.5, value=0, step=0.1, label="Temperature", info="0: always the best token", elem_id="heat"
                    )
                    seed = gr.Textbox(
                        label="Seed",
                        placeholder="random",
                        info="the same seed, chunk and load give the same answer",
                        elem_id="seed",
                    )
                # Read by the script: no event of Gradio's carries it.
                gr.Textbox(label="API key", type="password", visible=needs_key, elem_id="key")
            with gr.Column(scale=3, min_width=320):
                gr.HTML(
                    html_template=asset("canvas.html"),
                    css_template=asset("canvas.css"),
                    js_on_load=script(needs_key=needs_key),
                    elem_id="run",
                    apply_default_css=False,
                )
        controls = [prompt, mode, length, temperature, seed, chunk]
        for event in (generate.click, prompt.submit):
            event(None, controls, prompt, js=calls("generate"))
        compare.click(None, controls, None, js=calls("compare"))
        stop.click(None, None, None, js=calls("stop"))
        background.input(None, background, None, js=calls("load"))
        for chip, text in chips:
            chip.click(None, None, prompt, js=f"() => {text!r}").then(None, controls, prompt, js=calls("generate"))
    return page


def calls(name: str) -> str:
    """A handler that hands the controls' values to one of the script's functions."""
    return f"(...values) => window.optimus.{name}(...values)"


def script(*, needs_key: bool) -> str:
    """The component's script: the body of one function, so its files share their names and nothing leaks."""
    return "\n".join([f"const keyed = {str(needs_key).lower()};", *(asset(f"{name}.js") for name in SCRIPTS)])


def asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text()
