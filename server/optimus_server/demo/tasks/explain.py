"""Explanations of diffusion decoding and of Optimus: what people ask in the playground."""

import re
from random import Random

from optimus_server.demo.tasks.example import Example, casual
from optimus_server.demo.tasks.topics import TOPICS

_ASK = (
    "What is {}?",
    "What is {}?",
    "What does {} mean?",
    "Explain {}.",
    "Can you explain {}?",
    "Tell me about {}.",
    "Please explain {}.",
    "What do you mean by {}?",
    "Describe {}.",
    "I do not understand {}.",
    "Help me understand {}.",
    "What is meant by {}?",
    "In Optimus, what is {}?",
    "Explain {} to me.",
    "Could you tell me what {} is?",
    "Explain {} in simple words.",
)
_LEAD = ("Please tell me: ", "I have a question. ", "Can you tell me: ", "Quick question: ")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")


def explain(rng: Random, room: int) -> Example:
    """``What is a chunk?`` -> two or three sentences. Wording varies, so an answer is judged by a key word.

    Not scored: free wording makes exact match meaningless, and a key word alone would flatter the model.
    """
    topic = rng.choice(TOPICS)
    if rng.random() < 0.45:
        asked = rng.choice(topic.asked)
        if rng.random() < 0.15:
            asked = rng.choice(_LEAD) + asked
    else:
        asked = rng.choice(_ASK).format(rng.choice(topic.terms))
    answer = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), topic.answer)
    return Example("explain", casual(rng, asked, 0.3), answer, scored=False, keys=(topic.key,))
