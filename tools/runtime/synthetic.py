"""A large model whose coded integers are as wide as SmolLM2's, so that its speed depends on memory.

It is Llama-shaped, with SmolLM2's tokenizer. A matrix imitates SmolLM2's matrix of its kind at the same depth: the
scale of each row is that of one of its rows, drawn with replacement; likewise for columns, with the same columns for
matrices that share an input. Weights are row scale x column scale x a number drawn from SmolLM2's integers over their
standard deviations. They are thus the wanted integers, up to one factor per tensor. A statistics file without
covariances passes that factor to `impasto encode --statistics`, as the tensor's sensitivity (the step is its power
-1/2). The output of the model is meaningless.
"""

import json
import shutil
from dataclasses import dataclass, field

import blake3
import numpy as np
import widths
from context import say
from safetensors.numpy import save_file

CONFIG = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
VERSION = 3  # of a statistics file
CHUNK = 1 << 20  # values made at a time
# Matrices that are given the same input.
INPUTS = {"q_proj": "attention", "k_proj": "attention", "v_proj": "attention", "gate_proj": "mlp", "up_proj": "mlp"}
# Size of an output where its inputs are of size 1. What adds to the residual stream must not swell it over the blocks,
# and some rows of the embedding are much larger than others.
BRANCH = (2 * CONFIG["num_hidden_layers"]) ** -0.5
GAINS = {"o_proj": BRANCH, "down_proj": BRANCH, "embed_tokens": 1 / 32}
SEED = 1


def tensors(config):
    """Names and shapes, in the order of names."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q, kv = (config["head_dim"] * config[n] for n in ("num_attention_heads", "num_key_value_heads"))
    found = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    parts = {
        "input_layernorm": (hidden,),
        "mlp.down_proj": (hidden, inner),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "post_attention_layernorm": (hidden,),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q),
        "self_attn.q_proj": (q, hidden),
        "self_attn.v_proj": (kv, hidden),
    }
    for block in range(config["num_hidden_layers"]):
        found |= {f"model.layers.{block}.{part}.weight": shape for part, shape in parts.items()}
    return sorted(found.items(), key=lambda item: item[0].encode())


def followed(block, count, blocks):
    """The block of SmolLM2, which has so many, at the depth of a block of `count`."""
    return round(block * (blocks - 1) / (count - 1))


def source_of(name, config, blocks):
    """The tensor of SmolLM2, which has so many blocks, whose widths a tensor has."""
    parts = name.split(".")
    if parts[1] == "layers":
        parts[2] = str(followed(int(parts[2]), config["num_hidden_layers"], blocks))
    return ".".join(parts)


def to_bf16(values):
    """bfloat16 bits of finite float32 values, rounded to nearest even. Works in place."""
    bits = values.view(np.uint32)
    bits += 0x7FFF + ((bits >> 16) & 1)
    return (bits >> 16).astype("<u2")


@dataclass
class Maker:
    """Draws the matrices; `factors` collects the factor between the weights of each and its integers."""

    config: dict
    found: dict  # the widths of SmolLM2's matrices
    pools: dict  # of their integers over standard deviations, by kind
    rng: np.random.Generator
    factors: dict = field(default_factory=dict)
    drawn: dict = field(default_factory=dict)  # columns of the inputs that matrices share

    def scales(self, name, shape):
        """The standard deviations of a matrix's integers: of its rows, and of its columns relative to them."""
        blocks = sum(name.endswith("q_proj.weight") for name in self.found)
        source = self.found[source_of(name, self.config, blocks)]
        rows = source.rows if len(source.rows) == shape[0] else self.rng.choice(source.rows, shape[0])
        shared = (name.split(".")[2], INPUTS.get(widths.kind_of(name), widths.kind_of(name)))
        if shared not in self.drawn:
            self.drawn[shared] = self.rng.integers(len(source.columns), size=shape[1])
        columns = source.columns[self.drawn[shared]]
        # Classes are rounded scales: spread again, so that the encoder's rounding finds no steps.
        spread = self.rng.uniform(-0.5, 0.5, len(rows))
        return 2.0 ** ((rows + spread - widths.UNIT) / 4), 2.0 ** (columns / 4)

    def chunks(self, name, shape):
        """The bits of a tensor, some rows at a time."""
        if len(shape) == 1:
            yield to_bf16(np.ones(shape, dtype=np.float32))
            return
        rows, columns = self.scales(name, shape)
        size = np.sqrt(np.mean(rows**2) * np.mean(columns**2))
        gain = GAINS.get(widths.kind_of(name), 1.0)
        factor = self.factors[name] = gain / (size * np.sqrt(shape[1]))
        rows, columns = (rows * factor).astype(np.float32), columns.astype(np.float32)
        pool, step = self.pools[widths.kind_of(name)], CHUNK // shape[1]
        for first in range(0, shape[0], step):
            part = rows[first : first + step, None]
            start = self.rng.integers(len(pool) - part.size * shape[1])
            values = pool[start : start + part.size * shape[1]].reshape(part.size, -1) * part
            values *= columns
            yield to_bf16(values)


def write(folder, model, found, pools):
    """Writes the model as a folder; returns the factors of its tensors and its hash as `impasto` makes it."""
    config = json.loads((model / "config.json").read_text()) | CONFIG
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, folder / name)
    members, header, offset = tensors(config), {"__metadata__": {"format": "pt"}}, 0
    for name, shape in members:
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    maker, lines = Maker(config, found, pools, np.random.default_rng(SEED)), []
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in members:
            digest = blake3.blake3()
            for chunk in maker.chunks(name, shape):
                raw = chunk.tobytes()
                digest.update(raw)
                file.write(raw)
            lines.append(f'"{name}" BF16 {list(shape)} {digest.hexdigest()}\n')
    return maker.factors, blake3.blake3("".join(lines).encode()).hexdigest()


def write_statistics(path, factors, model_hash):
    """A statistics file without covariances: steps of tensors in the ratio of their factors."""
    linear = {"input": None, "damping": 0.0, "tokens": 1}
    info = {
        "version": VERSION,
        "model": model_hash,
        "text": blake3.blake3(b"").hexdigest(),
        "window": 1,
        "tokens": 1,
        "gradient_tokens": 1,
        "held_back_tokens": 0,
        "groups": {},
        "linears": {name: linear | {"sensitivity": factor**-2} for name, factor in factors.items()},
    }
    save_file({"info": np.frombuffer(json.dumps(info).encode(), dtype=np.uint8)}, path)


def make(folder, statistics, model, file, decoded):
    """Makes the model from SmolLM2 (`model`), its file of ours and that file decoded again."""
    found = widths.read(file)
    pools = widths.shapes(found, decoded, np.random.default_rng(SEED))
    for kind, pool in pools.items():
        say(f"{kind}: {len(pool)} integers, kurtosis {np.mean(pool**4):.2f}")
        if len(pool) <= 2 * CHUNK:
            pools[kind] = np.tile(pool, 1 + 2 * CHUNK // len(pool))
    write_statistics(statistics, *write(folder, model, found, pools))
