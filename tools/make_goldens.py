#!/usr/bin/env python3
"""Golden files for crates/impasto-model and crates/impasto-text, made with Hugging Face transformers in float32 with eager attention.

    python tools/make_goldens.py --models DIR [--out crates]

DIR holds the folder `smollm2-135m-continuous`; without it, the golden file of that model is left unchanged. Needs torch and
transformers. Writes:
  random-untied/, random-tied/   config.json, model.safetensors, golden.json, logits.f32 (little-endian, row-major)
  families/NAME/   config.json, golden.json, logits.f32, gradients.json of a tiny model of each family; its weights are not
                   stored, but derived from the names of the tensors (see `weights`), here and in the tests
  tiny.json, smollm2-135m-continuous.json   prompt, tokens, the top 8 and every stride-th logit of each position, the sum of
                   squared gradients of each layer
  chat.json        conversations, templates and the results of apply_chat_template; strftime cases
  tokenizer.json   texts and token ids under the tokenizer of assets/tiny
  sampling.json    logits, and the result of each of transformers' logits processors
"""

import argparse
import copy
import datetime
import json
import pathlib
from unittest import mock

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
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
    # Read back, since `to` also rounds the rotary frequencies, whereas loading does not.
    model = LlamaForCausalLM.from_pretrained(out, dtype=dtype, attn_implementation="eager").float().eval()
    tokens = torch.randint(0, config.vocab_size, (24,))
    with torch.no_grad():
        logits = model(tokens[None]).logits[0]
    (out / "logits.f32").write_bytes(logits.numpy().astype("<f4").tobytes())
    write_json(out / "golden.json", {"tokens": tokens.tolist(), "vocab_size": config.vocab_size})


def weights(name, shape, mean):
    """Values of the tensor `name`, the same on every machine and in every language.

    Value i is uniform in [-1, 1), 24 bits, from output i of SplitMix64 seeded with the FNV-1a hash of the name. Matrices
    are scaled by 2.5 / sqrt(columns), norms are `mean` + 0.4 u, biases 0.5 u; computed in binary64, rounded to binary32.
    """
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    count = np.arange(1, np.prod(shape, dtype=np.int64) + 1).astype(np.uint64)
    z = np.uint64(seed) + count * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    uniform = (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1
    if "norm" in name:
        values = mean + 0.4 * uniform
    elif len(shape) == 1:
        values = 0.5 * uniform
    else:
        values = uniform * (2.5 / shape[1] ** 0.5)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


# The configuration of each tiny model on top of SIZES. Contexts and windows are shorter than the 48 tokens that are run, so that
# every rule for positions and masks applies.
TOKENS = 48
SIZES = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=56,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=0,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
YARN = dict(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=16)
LONGROPE = dict(
    rope_type="longrope",
    rope_theta=1000.0,
    partial_rotary_factor=0.75,
    short_factor=[1.0, 1.1, 1.25, 1.4, 1.6, 2.0],
    long_factor=[1.0, 1.5, 2.5, 4.0, 6.0, 9.0],
)
FAMILIES = {
    "llama3": dict(model_type="llama", head_dim=12, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3),
    "llama-linear": dict(
        model_type="llama",
        tie_word_embeddings=True,
        rope_parameters=dict(rope_type="linear", rope_theta=1000.0, factor=2.5),
    ),
    "mistral": dict(model_type="mistral", head_dim=16, num_hidden_layers=2, sliding_window=7),
    "qwen2": dict(
        model_type="qwen2", use_sliding_window=True, sliding_window=9, max_window_layers=1, rope_parameters=YARN
    ),
    "qwen3": dict(
        model_type="qwen3",
        head_dim=20,
        attention_bias=True,
        rope_parameters=YARN | dict(truncate=False, attention_factor=1.25, beta_fast=1.0, beta_slow=0.25),
    ),
    "smollm3": dict(
        model_type="smollm3", num_hidden_layers=4, no_rope_layer_interval=2, use_sliding_window=True, sliding_window=11
    ),
    "gemma": dict(model_type="gemma", head_dim=12, num_key_value_heads=1),
    "gemma2": dict(
        model_type="gemma2",
        head_dim=12,
        sliding_window=6,
        query_pre_attn_scalar=10,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3": dict(
        model_type="gemma3_text",
        num_hidden_layers=4,
        head_dim=12,
        sliding_window=8,
        sliding_window_pattern=3,
        query_pre_attn_scalar=20,
        rope_parameters=dict(
            full_attention=dict(rope_type="linear", rope_theta=5000.0, factor=4.0),
            sliding_attention=dict(rope_type="default", rope_theta=50.0),
        ),
    ),
    "phi3": dict(model_type="phi3", sliding_window=10, num_key_value_heads=4),
    # Long factors apply to all positions once there are more than 24: one run on either side of that limit.
    "phi3-longrope": dict(
        model_type="phi3",
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        original_max_position_embeddings=24,
        rope_parameters=LONGROPE,
        runs=[24, TOKENS],
    ),
}


def gradients(model, tokens, labels):
    """Gradients of the summed cross entropy by the outputs of the linear layers, tokens x outputs, by weight name; "" is
    the one by the rows of the embedding matrix. The head's are root mean squares over labels that the model draws.

    In binary64, because sums of squares differ by up to 1e-4 between two ways of rounding to binary32."""
    model = copy.deepcopy(model).double()
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":

            def keep(_module, _inputs, outputs, name=name):
                found[f"{name}.weight"] = outputs[0][0]

            module.register_full_backward_hook(keep)
    rows = model.get_input_embeddings().weight[tokens].detach().requires_grad_()
    # Norms and softmax of transformers request binary32 explicitly.
    wide = mock.patch.object(torch, "float32", torch.float64)
    with wide, mock.patch("torch.nn.functional.embedding", lambda *_args, **_options: rows[None]):
        logits = model(tokens[None], use_cache=False).logits[0]
    torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    p = logits.detach().softmax(-1)
    cap = getattr(model.config, "final_logit_softcapping", None)
    slope = 1 - (logits.detach() / cap) ** 2 if cap else 1
    head = "model.embed_tokens.weight" if model.config.tie_word_embeddings else "lm_head.weight"
    return found | {"": rows.grad, head: (p * (1 - p)).sqrt() * slope}


def digest(gradient):
    """Per output: the sum of squares over tokens, and the sum of token (from 1) x gradient, which knows signs and order.
    Rounded to 8 digits."""
    token = torch.arange(1, len(gradient) + 1)
    sums = {"squares": (gradient**2).sum(0), "moments": (token[:, None] * gradient).sum(0)}
    return {name: [float(f"{x:.7e}") for x in values.tolist()] for name, values in sums.items()}


def family(out, name, *, model_type, runs=(TOKENS,), **options):
    """A tiny model of one family: configuration, tokens, names and shapes of its tensors, logits of each run, gradients of
    the longest."""
    config = transformers.CONFIG_MAPPING[model_type](**(SIZES | options))
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    mean = 0.0 if model_type.startswith("gemma") else 1.0
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    tensors = {name: tuple(t.shape) for name, t in model.state_dict().items() if name not in tied}
    missing, extra = model.load_state_dict({n: weights(n, s, mean) for n, s in tensors.items()}, strict=False)
    assert set(missing) <= tied and not extra, (missing, extra)
    torch.manual_seed(len(name))
    tokens = torch.randint(0, config.vocab_size, (max(runs),))
    with torch.no_grad():
        logits = [model(tokens[None, :n], use_cache=False).logits[0] for n in runs]
    out = out / "families" / name
    out.mkdir(parents=True, exist_ok=True)
    config.architectures = [type(model).__name__]
    config.save_pretrained(out)
    (out / "logits.f32").write_bytes(torch.cat(logits).numpy().astype("<f4").tobytes())
    golden = {"tokens": tokens.tolist(), "runs": list(runs), "norm_mean": mean, "tensors": tensors}
    (out / "golden.json").write_text(json.dumps(golden) + "\n", encoding="utf-8")
    labels = torch.randint(0, config.vocab_size, tokens.shape)
    digests = {name: digest(g) for name, g in gradients(model, tokens, labels).items()}
    value = {"labels": labels.tolist(), "gradients": digests}
    (out / "gradients.json").write_text(json.dumps(value) + "\n", encoding="utf-8")


def sampled_logits(folder, out, stride):
    """Top 8 and every stride-th logit of each position, and each layer's sum of squared gradients for the labels "the next
    token, and behind the last the first": small, and any wrong block shows."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager").float().eval()
    tokens = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
        nll = torch.nn.functional.cross_entropy(logits[:-1].double(), torch.tensor(tokens[1:]), reduction="none")
    top = logits.topk(8, dim=-1)
    window = torch.tensor(tokens)
    found = gradients(model, window, window.roll(-1))
    value = {
        "prompt": PROMPT,
        "tokens": tokens,
        "stride": stride,
        "nll": nll.tolist(),
        "top_ids": top.indices.tolist(),
        "top_logits": [[round(x, 5) for x in row] for row in top.values.tolist()],
        "max_abs": logits.abs().amax(-1).tolist(),
        "strided": [[round(x, 5) for x in row] for row in logits[:, ::stride].tolist()],
        "squared_gradients": {name: float(f"{(g**2).sum():.7e}") for name, g in found.items()},
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
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "crates")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    out, text = (args.out / crate / "tests/golden" for crate in ("impasto-model", "impasto-text"))
    out.mkdir(parents=True, exist_ok=True)
    text.mkdir(parents=True, exist_ok=True)
    random_model(out / "random-untied", tied=False, theta=10000.0, seed=1)
    random_model(out / "random-tied", tied=True, theta=500000.0, seed=2)
    for name, options in FAMILIES.items():
        family(out, name, **options)
    sampled_logits(ROOT / "assets" / "tiny", out / "tiny.json", stride=32)
    smol = args.models / "smollm2-135m-continuous" if args.models else None
    if smol and smol.exists():
        sampled_logits(smol, out / "smollm2-135m-continuous.json", stride=256)
    chat_goldens(args.models, text)
    tokenizer_goldens(text)
    sampling_goldens(out)


if __name__ == "__main__":
    main()
