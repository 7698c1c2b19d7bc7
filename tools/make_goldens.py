#!/usr/bin/env python3
"""Golden files for crates/impasto-model, made with Hugging Face transformers in float32 with eager attention.

    python tools/make_goldens.py --models DIR [--out crates/impasto-model/tests/golden]

DIR holds the folder `smollm2-135m-continuous`; without it that golden is left as it is. Needs torch and transformers.
Writes:
  random-untied/, random-tied/   config.json, model.safetensors, golden.json, logits.f32 (little-endian, row-major)
  tiny.json, smollm2-135m-continuous.json   prompt, tokens, the top 8 and every stride-th logit of each position
  chat.json        conversations, templates and what apply_chat_template makes of them; strftime cases
  tokenizer.json   texts and token ids under the tokenizer of assets/tiny
  sampling.json    logits and what each transformers' logits processor leaves of them
"""

import argparse
import datetime
import json
import pathlib

import torch
import transformers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.generation import logits_process as lp

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROMPT = (
    "The lighthouse keeper counted 1,204 waves before dawn; each one, he wrote, was a small argument "
    "with the shore. In Zürich, it rained."
)


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def random_model(out, *, tied, theta, seed):
    """A tiny Llama with random weights, wide enough that attention and the MLP matter in the logits."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=160,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2 if tied else 3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": theta, "rope_type": "default"},
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=[1, 2],
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.copy_(1 + 0.3 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * (1.5 / p.shape[1] ** 0.5))
    dtype = torch.bfloat16 if tied else torch.float32
    model = model.to(dtype)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    # Read back, since `to` rounds the rotary frequencies too, which loading does not.
    model = LlamaForCausalLM.from_pretrained(out, dtype=dtype, attn_implementation="eager").float().eval()
    tokens = torch.randint(0, config.vocab_size, (24,))
    with torch.no_grad():
        logits = model(tokens[None]).logits[0]
    (out / "logits.f32").write_bytes(logits.numpy().astype("<f4").tobytes())
    write_json(out / "golden.json", {"tokens": tokens.tolist(), "vocab_size": config.vocab_size})


def sampled_logits(folder, out, stride):
    """Top 8 and every stride-th logit of each position: small, and any wrong block shows."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager").float().eval()
    tokens = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
        nll = torch.nn.functional.cross_entropy(logits[:-1].double(), torch.tensor(tokens[1:]), reduction="none")
    top = logits.topk(8, dim=-1)
    value = {
        "prompt": PROMPT,
        "tokens": tokens,
        "stride": stride,
        "nll": nll.tolist(),
        "top_ids": top.indices.tolist(),
        "top_logits": [[round(x, 5) for x in row] for row in top.values.tolist()],
        "max_abs": logits.abs().amax(-1).tolist(),
        "strided": [[round(x, 5) for x in row] for row in logits[:, ::stride].tolist()],
    }
    out.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


TEMPLATES = {
    "blocks": (
        "{{ bos_token }}\n"
        "{% for message in messages %}\n"
        "    {% if message.role == 'user' %}\n"
        "        {{- 'U: ' + message['content'] | trim }}\n"
        "    {%- elif loop.last %}\n"
        "  A(last): {{ message.content.strip() }}{{ eos_token }}\n"
        "    {% else %}\n"
        "  {{ message.role.upper() }}: {{ message.content.split(':')[-1] }}\n"
        "    {% endif %}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}\n"
        "go\n"
        "{% endif %}\n"
    ),
    "json": (
        "{%- set ns = namespace(count=0) -%}"
        "{%- for m in messages -%}{%- set ns.count = ns.count + m.content|length -%}{{ m | tojson }};{%- endfor -%}"
        "{{ ns.count }}{{ variables_ | default('none') }}{{ facts | tojson(indent=2) }}"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
        "{% endgeneration %}{% else %}{% if m.content == 'skip' %}{% continue %}{% endif %}<{{ m.content }}>{% endif %}"
        "{% endfor %}"
    ),
    "macro": (
        "{%- macro line(role, text='?') -%}[{{ role }}|{{ text }}]{%- endmacro -%}"
        "{%- for m in messages[::-1] -%}{{ line(m.role, m.content) }}{%- endfor -%}"
        "{{ line('end') }}{{ messages[0].content[1:4] }}{{ 'x' if messages|length > 2 else 'y' }}"
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(', ') }}"
        "{{ messages[0].get('name', 'nobody') }}{% if messages[0].name is defined %}D{% endif %}"
    ),
}
CHATS = [
    [{"role": "user", "content": " What is <b>rain</b> & why? "}],
    [
        {"role": "system", "content": "Be brief: yes"},
        {"role": "user", "content": "Zürich: 雨が \"降る\"?"},
        {"role": "assistant", "content": "  Oui.\n"},
        {"role": "user", "content": "skip"},
        {"role": "assistant", "content": "It's a line\nbreak"},
    ],
]


def chat_goldens(models, out):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets" / "tiny")
    templates = dict(TEMPLATES)
    smol = models / "smollm2-135m-continuous" / "tokenizer_config.json" if models else None
    if smol and smol.exists():
        templates["smollm2"] = json.loads(smol.read_text())["chat_template"]
    elif (out / "chat.json").exists():
        old = json.loads((out / "chat.json").read_text())
        templates |= {c["name"]: c["template"] for c in old["cases"] if c["name"] == "smollm2"}
    cases = []
    for name, template in templates.items():
        for messages in CHATS:
            for prompt in (False, True):
                variables = {"facts": {"b": [1, 2.5, None, True], "a": "<é>"}}
                expected = tokenizer.apply_chat_template(
                    messages, chat_template=template, tokenize=False, add_generation_prompt=prompt, **variables
                )
                cases.append(
                    {
                        "name": name,
                        "template": template,
                        "bos_token": tokenizer.bos_token,
                        "eos_token": tokenizer.eos_token,
                        "messages": messages,
                        "add_generation_prompt": prompt,
                        "variables": variables,
                        "expected": expected,
                    }
                )
    formats = "%d %b %Y|%A, %B %d|%a %j %y-%m|%H:%M:%S|%I %p|%-d/%-m|100%%|%e|%F %T"
    times = [0, 951_782_400, 1_709_164_799, 1_735_689_599, 4_102_444_800, 1_700_000_000]
    dates = [
        {
            "epoch": t,
            "format": formats,
            "expected": datetime.datetime.fromtimestamp(t, datetime.timezone.utc).strftime(formats),
        }
        for t in times
    ]
    write_json(out / "chat.json", {"cases": cases, "strftime": dates})


def tokenizer_goldens(out):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets" / "tiny")
    texts = [PROMPT, "", " leading and trailing ", "naïve 日本語 🦀🦀 \n\n\ttabs", "<|endoftext|>Once upon a time"]
    write_json(
        out / "tokenizer.json",
        [{"text": t, "ids": tokenizer(t, add_special_tokens=False)["input_ids"]} for t in texts],
    )


def sampling_goldens(out):
    torch.manual_seed(7)
    scores = (torch.randn(1, 48) * 3).round(decimals=3)
    scores[0, 5] = scores[0, 9]
    history = torch.tensor([[3, 5, 5, 40, 47]])
    filters = {
        "repetition_penalty": [(lp.RepetitionPenaltyLogitsProcessor, p) for p in (0.8, 1.3)],
        "temperature": [(lp.TemperatureLogitsWarper, t) for t in (0.5, 1.7)],
        "top_k": [(lp.TopKLogitsWarper, k) for k in (1, 7, 48, 500)],
        "top_p": [(lp.TopPLogitsWarper, p) for p in (0.05, 0.5, 0.9, 0.999)],
        "min_p": [(lp.MinPLogitsWarper, p) for p in (0.01, 0.1, 0.9)],
    }
    cases = []
    for name, variants in filters.items():
        for cls, value in variants:
            left = cls(value)(history, scores.clone())[0]
            cases.append(
                {"filter": name, "value": value, "left": [None if x == -float("inf") else x for x in left.tolist()]}
            )
    chain = scores.clone()
    for cls, value in (
        (lp.RepetitionPenaltyLogitsProcessor, 1.2),
        (lp.TemperatureLogitsWarper, 0.7),
        (lp.TopKLogitsWarper, 20),
        (lp.TopPLogitsWarper, 0.95),
        (lp.MinPLogitsWarper, 0.02),
    ):
        chain = cls(value)(history, chain)
    cases.append({"filter": "chain", "value": 0, "left": [None if x == -float("inf") else x for x in chain[0].tolist()]})
    write_json(out / "sampling.json", {"logits": scores[0].tolist(), "history": history[0].tolist(), "cases": cases})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "crates/impasto-model/tests/golden")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    args.out.mkdir(parents=True, exist_ok=True)
    random_model(args.out / "random-untied", tied=False, theta=10000.0, seed=1)
    random_model(args.out / "random-tied", tied=True, theta=500000.0, seed=2)
    sampled_logits(ROOT / "assets" / "tiny", args.out / "tiny.json", stride=32)
    smol = args.models / "smollm2-135m-continuous" if args.models else None
    if smol and smol.exists():
        sampled_logits(smol, args.out / "smollm2-135m-continuous.json", stride=256)
    chat_goldens(args.models, args.out)
    tokenizer_goldens(args.out)
    sampling_goldens(args.out)


if __name__ == "__main__":
    main()
