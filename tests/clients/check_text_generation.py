"""Talks to the server at argv[1] with text-generation's client, in its own environment, and prints what it got."""

import json
import sys

from text_generation import Client
from text_generation.errors import ValidationError

client = Client(sys.argv[1])
asked = {"prompt": "hello", "max_new_tokens": 12, "decoder_input_details": True, "top_n_tokens": 2}
whole = client.generate(**asked)
events = list(client.generate_stream("hello", max_new_tokens=12))
sampled = client.generate("hello", max_new_tokens=12, do_sample=True, best_of=2, repetition_penalty=1.2, typical_p=0.9)
try:
    client.generate("hello", max_new_tokens=10**6)
except ValidationError as caught:
    error = str(caught)
print(
    json.dumps(
        {
            "text": whole.generated_text,
            "stream": "".join(event.token.text for event in events),
            "end": events[-1].generated_text,
            "prefill": len(whole.details.prefill),
            "top": [len(top) for top in whole.details.top_tokens],
            "tokens": whole.details.generated_tokens,
            "finish": whole.details.finish_reason.value,
            "others": len(sampled.details.best_of_sequences),
            "error": error,
        }
    )
)
