"""POST /tokenize and /chat_tokenize."""

from tests.web import TEMPLATE

CHAT = {"messages": [{"role": "user", "content": "hi 🙂"}]}


def test_tokenize_gives_each_token_its_characters(scripted, tokenizer):
    text = "hello 🙂 world"
    tokens = scripted().post("/tokenize", {"inputs": text}).json()
    assert [token["id"] for token in tokens] == list(tokenizer.encode(text))
    assert all(token["text"] == text[token["start"] : token["stop"]] for token in tokens)
    assert (tokens[0]["start"], tokens[-1]["stop"]) == (0, len(text))


def test_chat_tokenize_needs_no_key(scripted, tokenizer):
    assert "m.content" in TEMPLATE
    live = scripted(api_key="k")
    result = live.post("/chat_tokenize", CHAT).json()
    assert result["templated_text"] == "<|user|>hi 🙂<|end|><|assistant|>"
    ids, _ = tokenizer.encode_chat(CHAT["messages"])
    assert [token["id"] for token in result["tokenize_response"]] == list(ids)
    assert live.post("/tokenize", {"inputs": "x"}).status_code == 401


def test_what_is_empty_or_wrong(scripted):
    live = scripted()
    for path, body in (("/tokenize", {"inputs": ""}), ("/chat_tokenize", {"messages": []}), ("/tokenize", {})):
        response = live.post(path, body)
        assert response.status_code == 422
        assert response.json()["error_type"] == "validation"
