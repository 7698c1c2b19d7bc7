"""The Python library of OpenAI against a server: `openai_python.py ADDRESS MODEL KEY`."""

import json
import sys
import urllib.error

import openai
from pydantic import BaseModel

address, model, key = sys.argv[1:]
client = openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)
hello = [{"role": "user", "content": "Say hello."}]

# Models.
names = [entry.id for entry in client.models.list()]
assert model in names, names
assert client.models.retrieve(model).owned_by == "impasto"

# A message, whole and in pieces.
whole = client.chat.completions.create(model=model, messages=hello, max_tokens=24, seed=5, temperature=0.7)
assert whole.choices[0].message.role == "assistant" and whole.choices[0].finish_reason in ("stop", "length")
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
text, usage = "", None
stream = client.chat.completions.create(
    model=model, messages=hello, max_completion_tokens=24, seed=5, temperature=0.7, stream=True,
    stream_options={"include_usage": True})
for chunk in stream:
    if chunk.choices:
        text += chunk.choices[0].delta.content or ""
    usage = chunk.usage or usage
assert text == whole.choices[0].message.content, (text, whole)
assert usage.completion_tokens == whole.usage.completion_tokens
# The helper that puts pieces together.
with client.chat.completions.stream(model=model, messages=hello, max_tokens=24, seed=5, temperature=0.7) as stream:
    try:
        final = stream.get_final_completion()
    except openai.LengthFinishReasonError as error:  # It wants texts to end.
        final = error.completion
    assert final.choices[0].message.content == text
# A stream that is given up.
with client.chat.completions.create(model=model, messages=hello, max_tokens=500, stream=True) as stream:
    next(iter(stream))

# Log probabilities.
answer = client.chat.completions.create(
    model=model, messages=hello, max_tokens=6, logprobs=True, top_logprobs=3, temperature=0)
for token in answer.choices[0].logprobs.content:
    assert len(token.top_logprobs) == 3 and token.logprob <= 0 and token.bytes is not None


# Answers that match a type.
class Pet(BaseModel):
    name: str
    legs: int
    is_tame: bool


for seed in range(2):
    try:
        parsed = client.chat.completions.parse(
            model=model, messages=[{"role": "user", "content": "A pet, as JSON."}], response_format=Pet, seed=seed,
            temperature=0.8, max_tokens=600)
        assert isinstance(parsed.choices[0].message.parsed, Pet)
    except openai.LengthFinishReasonError as error:  # The tiny model may write a name without end.
        assert error.completion.choices[0].message.content.lstrip().startswith("{")

# Functions.
tool = {"type": "function", "function": {
    "name": "weather", "strict": True,
    "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
                   "additionalProperties": False}}}
called = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": "Weather in Rome?"}], tools=[tool], tool_choice="required",
    parallel_tool_calls=False, max_tokens=400)
call = called.choices[0].message.tool_calls[0]
assert called.choices[0].finish_reason == "tool_calls" and call.function.name == "weather"
assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
# The call and its result are the next messages.
talk = [{"role": "user", "content": "Weather in Rome?"}, called.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
assert client.chat.completions.create(model=model, messages=talk, tools=[tool], max_tokens=8).choices

# Text that goes on.
completion = client.completions.create(model=model, prompt="Once upon a time", max_tokens=5, logprobs=2, echo=True)
assert completion.choices[0].text.startswith("Once upon a time")
assert completion.choices[0].logprobs.token_logprobs[0] is None

# Embeddings: the library asks for base64 by itself.
vectors = client.embeddings.create(model=model, input=["a dog", "a cat"])
assert len(vectors.data) == 2 and abs(sum(x * x for x in vectors.data[0].embedding) - 1) < 1e-4

# Errors, each of its class.
def fails(kind, work):
    try:
        work()
    except kind as error:
        return error
    raise AssertionError(f"no {kind}")


fails(openai.NotFoundError, lambda: client.chat.completions.create(model="none", messages=hello))
error = fails(openai.BadRequestError, lambda: client.completions.create(model=model, prompt="a", top_p=7))
assert error.param == "top_p" and error.code == "invalid_value", error
wrong = openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0)
fails(openai.AuthenticationError, lambda: wrong.models.list())
print("done")
