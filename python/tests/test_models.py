"""Models that run."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import impasto
import pytest

PROMPT = "Once upon a time"
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"


@pytest.fixture(scope="module")
def model(lossless):
    return impasto.Model(lossless, threads=2)


def test_pieces_make_the_text_of_the_command(model, lossless):
    pieces = model.generate(PROMPT, max_tokens=24)
    first = next(pieces)
    text = first + "".join(pieces)
    command = [sys.executable, "-m", "impasto", "run", lossless, "-p", PROMPT, "-n", "24", "--json", "--threads", "2"]
    done = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert text == pieces.text == done["generation"]["text"]
    assert pieces.tokens == done["generation"]["tokens"] and len(pieces.tokens) <= 24
    assert pieces.prompt_tokens == len(model.tokenize(PROMPT)) == len(done["prompt_tokens"])
    assert pieces.stop_reason in {"max_tokens", "eos"}
    assert list(pieces) == []


def test_prompts_of_tokens_and_sampling(model):
    tokens = model.tokenize(PROMPT)
    assert model.detokenize(tokens) == PROMPT
    greedy = "".join(model.generate(tokens, max_tokens=16))
    assert greedy == "".join(model.generate(PROMPT, max_tokens=16))
    drawn = ["".join(model.generate(PROMPT, max_tokens=16, temperature=1.5, seed=seed)) for seed in [1, 1, 2]]
    assert drawn[0] == drawn[1] != drawn[2]
    stopped = model.generate(PROMPT, max_tokens=64, stop=greedy[5:8])
    assert "".join(stopped) == greedy[:5] and stopped.stop_reason == "stop_string"


def generating():
    """Return how many threads generate, where the system says so."""
    names = pathlib.Path("/proc/self/task").glob("*/comm")
    return sum(name.read_text() == "generate\n" for name in names)


def test_who_stops_reading_stops_the_generation(model):
    closed, dropped = (model.generate(PROMPT, max_tokens=400) for _ in range(2))
    for pieces in [closed, dropped]:
        next(pieces)
    closed.close()
    del dropped, pieces
    for _ in range(600):
        if generating() == 0:
            break
        time.sleep(0.1)
    assert generating() == 0
    assert list(closed) == [] and closed.text is None
    # The model still answers, alone and in several threads.
    texts = []
    work = [threading.Thread(target=lambda: texts.append("".join(model.generate(PROMPT, max_tokens=8)))) for _ in range(3)]
    [thread.start() for thread in work]
    [thread.join() for thread in work]
    assert len(set(texts)) == 1 and len(texts) == 3


def test_ctrl_c_interrupts(model):
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            for _ in model.generate(PROMPT, max_tokens=400):
                pass


def test_layers_and_options(layered):
    model = impasto.Model(layered, layer=1, kv={"k": "int8", "v": "f16"}, context=64, residence="coded")
    assert model.max_context == 64 and model.memory_bytes > 0
    pieces = model.generate(PROMPT, max_tokens=100)
    assert "".join(pieces) and pieces.stop_reason in {"context_full", "eos"}
    with pytest.raises(impasto.UsageError, match="possible values: packed, coded, float"):
        impasto.Model(layered, residence="nothing")


def test_conversations(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "chat")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    model = impasto.Model(folder)
    messages = [{"role": "user", "content": "Hello"}]
    answer = model.chat(messages, max_tokens=12)
    wanted = model.generate(model.tokenize("<user>Hello<answer>", special=False), max_tokens=12)
    assert "".join(answer) == "".join(wanted) and answer.tokens == wanted.tokens
    with pytest.raises(impasto.UsageError, match="messages: missing field `role`"):
        model.chat([{"content": "Hello"}])
    # Hostile templates are stopped: by the limits of their text, of time and of the stack.
    for template, limit in [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "limit of"),
        ("{% set l = range(100000)|list %}{% for i in l %}{% if -1 in l %}{% endif %}{% endfor %}", "limit of"),
        ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "recurses deeper than the limit of|no answer within the limit of"),
    ]:
        (folder / "chat_template.jinja").write_text(template)
        with pytest.raises(impasto.InvalidError, match=limit):
            impasto.Model(folder).chat(messages)


def test_a_model_without_a_template(model):
    with pytest.raises(impasto.InvalidError, match="chat template"):
        model.chat([{"role": "user", "content": "Hello"}])


def test_options_that_are_out_of_range(model):
    with pytest.raises(impasto.UsageError, match="temperature"):
        list(model.generate(PROMPT, temperature=-1.0))
    with pytest.raises(impasto.UsageError, match="max_tokens: can't convert negative int"):
        model.generate(PROMPT, max_tokens=-1)
    with pytest.raises(impasto.InvalidError, match="vocabulary"):
        list(model.generate([2**31]))
    with pytest.raises(impasto.InvalidError, match="empty|prompt"):
        list(model.generate([]))


def test_the_end_of_the_process_while_a_text_is_generated(lossless):
    code = f"import impasto; m = impasto.Model({os.fspath(lossless)!r}); p = m.generate('A', max_tokens=100000); print(next(p))"
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.monotonic() - begun < 60
