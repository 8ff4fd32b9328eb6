"""What the demo model can explain: diffusion decoding and Optimus itself.

Each topic: the terms people use for it, a key that a right answer contains, further ways to ask, and the answer.
``[a|b]`` in an answer is a free choice of words, so that an explanation is text and not one memorised string.
"""

from typing import NamedTuple


class Topic(NamedTuple):
    terms: tuple[str, ...]
    key: str
    asked: tuple[str, ...]
    answer: str


TOPICS = (
    Topic(
        ("Optimus", "this server", "the Optimus server"),
        "diffusion",
        (
            "What does Optimus do?",
            "What is Optimus good for?",
            "Why should I use Optimus?",
            "What is this?",
            "Give me an overview of Optimus.",
            "What is special about Optimus?",
        ),
        "Optimus is a [server|serving engine] for diffusion language models. It [chooses|decides] at run time how "
        "many positions each request computes per step: [many when the GPU is idle|large chunks at low load], "
        "[few when it is busy|small chunks at high load].",
    ),
    Topic(
        ("diffusion decoding", "diffusion text generation", "decoding by diffusion"),
        "mask",
        (
            "How does diffusion decoding work?",
            "How does diffusion generate text?",
            "How do you generate text?",
            "How does a diffusion model write text?",
            "Why does the text appear in parallel?",
        ),
        "Diffusion decoding starts from a block of mask tokens. [In each step|At every step] the model predicts all "
        "masks at once and [commits|keeps] the tokens it is sure of. [The rest|The others] stay masked until a "
        "later step, so a block needs [fewer steps than tokens|only a few steps].",
    ),
    Topic(
        ("a diffusion language model", "a diffusion LLM", "a dLLM", "diffusion LLMs"),
        "parallel",
        ("How are diffusion models different?", "What is a diffusion model?"),
        "A diffusion language model fills in masked tokens in parallel [instead of|rather than] writing them one by "
        "one. It is trained to [restore|guess] tokens that were masked at random.",
    ),
    Topic(
        ("block diffusion", "a block diffusion model", "semi-autoregressive decoding"),
        "block",
        ("How does block diffusion work?",),
        "Block diffusion [cuts|splits] the text into blocks of fixed size. Blocks are written from left to right, "
        "and the tokens [inside|within] a block are denoised in parallel, so the KV of [finished|earlier] blocks "
        "can be cached.",
    ),
    Topic(
        ("a block", "the block", "the block size", "block size"),
        "32",
        ("How large is a block?", "How many tokens are in a block?"),
        "A block is a group of positions that attend to each other in both directions. For this model a block has "
        "32 positions, [counted|measured] from the [start|beginning] of the sequence.",
    ),
    Topic(
        ("a chunk", "the chunk", "chunk size", "the chunk size"),
        "positions",
        ("How large is a chunk?", "What is the difference between a block and a chunk?"),
        "The chunk size is the number of positions that one request [offers|gives] to one step. It is the control "
        "variable of Optimus and [can change|may change] at every step, while the block size is fixed by the "
        "[model|checkpoint].",
    ),
    Topic(
        ("elastic decoding", "elasticity", "elastic chunk size"),
        "load",
        (
            "Why is chunk size elastic?",
            "Why is the chunk size elastic?",
            "Why does the chunk size change?",
            "How does elastic decoding work?",
            "Why not use a fixed chunk size?",
        ),
        "No fixed chunk size is right at every load. When the GPU is idle, a large chunk costs no more than a small "
        "one, so large chunks [win|are better]. When it is saturated, most computed positions are [wasted|not "
        "committed], so small chunks [win|are better]. Elastic decoding [adapts to|follows] the load.",
    ),
    Topic(
        ("the frontier", "a frontier", "frontier"),
        "committed",
        ("Where is the frontier?",),
        "The frontier is the first position that is not committed yet. Only text before the frontier is [sent|"
        "streamed] to the client, because it [cannot|can no longer] change.",
    ),
    Topic(
        ("a step", "one step", "a forward", "a decoding step"),
        "forward",
        ("What happens in a step?", "What happens in one step?"),
        "A step is one forward of the model over all rows of the batch. After it, [every|each] request has "
        "committed [one or more tokens|at least one token].",
    ),
    Topic(
        ("a row", "the row", "a row of the batch"),
        "range",
        ("What are rows?",),
        "A row is the range of positions that one request computes in one step. It [can hold|may contain] prompt "
        "tokens, committed tokens and masks, so prefill and decoding share one [batch|forward].",
    ),
    Topic(
        ("a committed token", "committing", "a commit", "committed"),
        "decided",
        ("When is a token committed?", "What does it mean to commit a token?"),
        "A token is committed when it is decided and [no longer changes|will not change again]. That happens when "
        "the confidence of the model is above the threshold.",
    ),
    Topic(
        ("confidence", "the confidence", "a confidence"),
        "probability",
        ("How is confidence computed?", "How sure is the model?"),
        "Confidence is the probability that the model gives to the token it [chose|picked]. A mask is committed when "
        "its confidence is above the threshold.",
    ),
    Topic(
        ("the threshold", "the confidence threshold", "threshold"),
        "0.9",
        ("What is a good threshold?", "What does a lower threshold do?"),
        "The threshold is the confidence above which a token is committed. The default is 0.9. A lower threshold is "
        "faster but makes more [mistakes|errors].",
    ),
    Topic(
        ("a mask", "the mask token", "a mask token", "masks"),
        "position",
        ("What are masks for?", "Why are there masks?"),
        "A mask token stands for a position that is not decided yet. The model sees it as [a gap|an empty place] and "
        "predicts [what belongs there|the token for it].",
    ),
    Topic(
        ("tokens per forward", "TPF", "tokens per step"),
        "per",
        ("How many tokens are committed per step?", "What is a good TPF?"),
        "Tokens per forward, or TPF, is the number of tokens that a request commits per step. Code and JSON reach "
        "[about ten|ten or so], a story [about two|two or three], and an autoregressive model always one.",
    ),
    Topic(
        ("token utilisation", "token utilization", "TU"),
        "computed",
        ("How much work is wasted?",),
        "Token utilisation is the number of committed tokens divided by the number of computed positions. It is "
        "[high|good] for small chunks and [low|poor] for large ones.",
    ),
    Topic(
        ("the KV cache", "a KV cache", "KV caching", "the cache"),
        "keys and values",
        ("Why is there a cache?", "What is stored in the cache?"),
        "The KV cache stores the keys and values of earlier positions, so that they are not computed [again|twice]. "
        "Optimus keeps it in pages that requests [take|borrow] and give back.",
    ),
    Topic(
        ("the prefix cache", "prefix caching", "a prefix cache"),
        "share",
        ("Can requests share a prefix?",),
        "The prefix cache lets requests with the same beginning share its keys and values. Only exact blocks [enter "
        "it|are kept], so that an answer never depends on who asked before.",
    ),
    Topic(
        ("saturation", "the saturation point", "GPU saturation"),
        "flat",
        ("When is a GPU saturated?",),
        "The saturation point is the number of positions at which a step stops being flat in cost. Below it, more "
        "positions are [free|for nothing]; above it, every position [costs time|makes the step longer].",
    ),
    Topic(
        ("the controller", "the chunk controller", "the scheduler's controller"),
        "chunk size",
        ("How is the chunk size chosen?", "Who chooses the chunk size?", "How does Optimus choose a chunk size?"),
        "The controller chooses the chunk size of the next step. It [compares|weighs] the expected commits with the "
        "predicted time of the step and takes the chunk size with the [best|highest] ratio.",
    ),
    Topic(
        ("the latency model", "a latency model", "step latency"),
        "profile",
        ("How is step time predicted?", "Why does Optimus profile the GPU?"),
        "The latency model predicts how long a step takes for a number of positions. It comes from a profile at "
        "start-up and is corrected [online|while the server runs].",
    ),
    Topic(
        ("yield", "the yield", "commit yield"),
        "expected",
        ("How many tokens does a chunk commit?",),
        "The yield is the expected number of commits of a row at a given chunk size. Optimus learns it from the "
        "commits [themselves|it sees].",
    ),
    Topic(
        ("autoregressive decoding", "an autoregressive model", "autoregression"),
        "one",
        (
            "How does autoregressive decoding work?",
            "What is the difference between diffusion and autoregression?",
            "Is diffusion faster than autoregression?",
        ),
        "Autoregressive decoding writes one token per step, from left to right. Diffusion decoding writes several "
        "tokens per step, which is [faster|better] as long as the GPU has [room|time to spare].",
    ),
    Topic(
        ("logit shift", "shifted logits", "a shifted model"),
        "next",
        ("Why are the logits shifted?",),
        "In a shifted model the output at a position predicts the next token, as in an autoregressive model. With "
        "chunk size 1 such a model [is autoregressive|decodes autoregressively], so the chunk size spans both "
        "[worlds|kinds].",
    ),
    Topic(
        ("refresh", "the refresh policy", "KV refresh"),
        "again",
        ("When are blocks refreshed?",),
        "Refresh computes a finished block once again, without masks, so that its keys and values are exact. It "
        "[costs|needs] one more position per token and buys back [a little|some] accuracy.",
    ),
    Topic(
        ("the block policy", "fixed block decoding"),
        "whole block",
        ("How does the block policy work?",),
        "The block policy computes the whole block in every step until no mask is left. It is exact but [wastes|"
        "throws away] most positions when the GPU is busy.",
    ),
    Topic(
        ("the chunk policy", "in-block streaming", "chunked decoding"),
        "committed",
        ("How does the chunk policy work?",),
        "The chunk policy computes only the next few positions of a block. Tokens committed at the left are cached "
        "[at once|immediately], and the window moves on to the right.",
    ),
    Topic(
        ("streaming", "SSE", "server-sent events", "the stream"),
        "order",
        ("How does streaming work?", "Why is the text not sent out of order?", "How are tokens streamed?"),
        "Tokens are streamed as server-sent events, in order. Tokens that were decided out of order wait until all "
        "positions before them are committed, [so the text never changes|so no text is ever taken back].",
    ),
    Topic(
        ("continuous batching", "batching", "the batch"),
        "join",
        ("How are requests batched?", "Can many users share the server?"),
        "With continuous batching, requests join and leave the batch at any step. Nobody [waits|has to wait] for "
        "the longest answer.",
    ),
    Topic(
        ("prefill", "the prefill", "chunked prefill"),
        "prompt",
        ("How is the prompt processed?",),
        "Prefill computes the keys and values of the prompt. Optimus [cuts|splits] long prompts into parts and runs "
        "them in the same steps as decoding, so that streams [do not stall|keep moving].",
    ),
    Topic(
        ("preemption", "a preempted request"),
        "pages",
        ("What happens when memory runs out?", "What if there are no free pages?"),
        "When no pages of memory are left, Optimus preempts a request: it gives its pages back and continues it "
        "[later|when there is room].",
    ),
    Topic(
        ("denoising", "a denoising step", "noise"),
        "mask",
        ("How does denoising work?",),
        "Denoising means replacing masks by tokens. [Noise|The noise] in a text diffusion model is not blur but "
        "mask tokens, and every denoising step removes some of them.",
    ),
    Topic(
        ("the admin view", "the admin page", "the dashboard"),
        "requests",
        ("How can I see the load?", "Is there a dashboard?"),
        "The admin view shows the requests, the chunk sizes and the load of the server. It [explains|shows] every "
        "decision of the controller.",
    ),
    Topic(
        ("the demo model", "this demo model", "this model"),
        "7.9 million",
        ("Why is the demo model so small?", "What can the demo model do?"),
        "The demo model is a block diffusion model with 7.9 million parameters. It is [small enough|made] to run on "
        "a laptop, and it does sums, lists, JSON, code and stories.",
    ),
    Topic(
        ("temperature", "sampling temperature", "the temperature"),
        "random",
        ("What does temperature do?",),
        "The temperature controls how random the tokens are. At 0 the model always takes the most [likely|probable] "
        "token; at 1 it samples from its own probabilities.",
    ),
    Topic(
        ("the ladder", "the chunk ladder", "the ladder of chunk sizes"),
        "64",
        ("Which chunk sizes are there?", "What chunk sizes can be used?"),
        "The ladder is the list of allowed chunk sizes: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48 and 64. Size 1 is only "
        "for [shifted models|models with shifted logits].",
    ),
)
