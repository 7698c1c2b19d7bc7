"""llama.cpp's files of a model: its presets, and the best mixes of types found for the model."""

import json
from collections import Counter

import hf_folder
from context import say

PRESETS = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "IQ2_M"]
FAMILY = "llama.cpp"
MIXES = "llama.cpp, best mixes"

# Bits a weight of the types that are tried; those that need multiples of 256 columns are tried where columns are.
BLOCK_32 = {"q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0, "q4_0": 4.5, "iq4_nl": 4.5, "mxfp4": 4.25}
BLOCK_256 = {
    "q6_k": 6.5625,
    "q5_k": 5.5,
    "q4_k": 4.5,
    "iq4_xs": 4.25,
    "q3_k": 3.4375,
    "iq3_s": 3.4375,
    "iq3_xxs": 3.0625,
    "q2_k": 2.625,
    "iq2_s": 2.5625,
    "iq2_xs": 2.3125,
    "iq2_xxs": 2.0625,
}
GROUPS = {
    "token_embd": ["embed_tokens"],
    "attn_qk": ["q_proj", "k_proj"],
    "attn_v": ["v_proj"],
    "attn_output": ["o_proj"],
    "ffn_gate_up": ["gate_proj", "up_proj"],
    "ffn_down": ["down_proj"],
}
PATTERNS = {"attn_qk": ["attn_q", "attn_k"], "ffn_gate_up": ["ffn_gate", "ffn_up"]}


def whole(bench, model):
    """The model as a GGUF of binary32."""
    path = bench.scratch / f"{model.name}-f32.gguf"
    if not path.exists():
        exact = bench.scratch / f"{model.name}-exact.impasto"
        bench.impasto("encode", model.folder, "-o", exact)
        bench.impasto("decode", exact, "--to", "gguf", "--type", "f32", "-o", path)
        exact.unlink()
    return path


def imatrix(bench, model):
    """llama.cpp's importance matrix of the calibration text; that of the head, too, unless it is tied."""
    path = bench.scratch / f"{model.name}-imatrix-{bench.options.tokens}.gguf"
    if not path.exists():
        text = ("-f", bench.calibration(model), "-c", 512, "--no-ppl", "--process-output")
        bench.llama("llama-imatrix", "-m", whole(bench, model), *text, "-o", path)
    return path


def quantize(bench, model, kind, *words):
    """A GGUF of a type; `words` are further options of llama-quantize."""
    path = bench.scratch / f"{model.name}.gguf"
    bench.llama("llama-quantize", "--imatrix", imatrix(bench, model), *words, whole(bench, model), path, kind)
    return path


def score(bench, model, family, name, path, **more):
    """Scores a GGUF as what our runtime makes of its dequantized weights."""
    bare, types = hf_folder.gguf_types(path)
    counts = dict(Counter(types.values()))
    folder = hf_folder.write(bench.folder("peer"), model.folder, hf_folder.from_gguf(path, model.folder))
    return bench.score(family, name, model, folder, path.stat().st_size, bare, types=counts, **more)


def check(bench, model):
    """The way from GGUF to folder must lose nothing: binary32 gives the original weights."""
    original = hf_folder.tensors(model.folder)
    found = hf_folder.from_gguf(whole(bench, model), model.folder)
    wrong = [name for name, w in original.items() if name in found and not (found[name] == w).all()]
    if wrong or len(found) < len(original) - 1:
        raise SystemExit(f"{model.name}: tensors that a GGUF does not give back: {wrong}")


def presets(bench, model):
    """The presets of the issue, as llama-quantize makes them."""
    check(bench, model)
    for kind in PRESETS:
        if not bench.scored(FAMILY, kind, model):
            score(bench, model, FAMILY, kind, quantize(bench, model, kind))


class Mixes:
    """Which type each group of tensors should have.

    The KL divergence when only one group is quantized is measured for each group and type, on a text that is neither
    for calibration nor for the result. Divergences of groups add up well enough to choose by: for every price of a byte
    the type of least `divergence + price * bytes` is taken in each group. What is reported is measured on whole
    mixes.
    """

    def __init__(self, bench, model):
        self.bench, self.model = bench, model
        self.original = hf_folder.tensors(model.folder)

    def members(self, group):
        return [name for name in self.original if any(f".{part}." in name for part in GROUPS[group])]

    def types(self, group):
        columns = {self.original[name].shape[1] for name in self.members(group)}
        return BLOCK_32 | (BLOCK_256 if all(c % 256 == 0 for c in columns) else {})

    def probe(self):
        """Measures each group in each type."""
        kinds = sorted({kind for group in GROUPS for kind in self.types(group)})
        fields = {"windows": self.bench.options.probe_windows, "tokens": self.bench.options.tokens}
        for kind in kinds:
            groups = [g for g in GROUPS if kind in self.types(g)]
            missing = [g for g in groups if not self.bench.results.has("probes", self.key(g, kind), **fields)]
            if not missing:
                continue
            path = self.quantize({group: kind for group in groups})
            weights = hf_folder.from_gguf(path, self.model.folder)
            for group in missing:
                changed = self.original | {name: weights[name] for name in self.members(group)}
                folder = hf_folder.write(self.bench.folder("probe"), self.model.folder, changed)
                value = self.bench.kld(folder, self.model, "valid.txt", fields["windows"])["mean"]["value"]
                count = sum(self.original[name].size for name in self.members(group))
                entry = {"kld": value, "bytes": count * self.types(group)[kind] / 8, **fields}
                self.bench.results.put("probes", self.key(group, kind), entry)
                say(f"{self.model.name} probe {group} {kind}: {value:.5f}")

    def quantize(self, mix):
        """A GGUF with a type for each group, Q8_0 for the rest. It is checked that each group has its type."""
        words = [w for group, kind in mix.items() for w in self.option(group, kind)]
        path = quantize(self.bench, self.model, "Q8_0", *words)
        _, types = hf_folder.gguf_types(path)
        wrong = [n for group, kind in mix.items() for n in self.members(group) if types[n] != kind.upper()]
        if wrong:
            raise SystemExit(f"llama-quantize gave another type than was asked for to {wrong[0]}: {types[wrong[0]]}")
        return path

    def key(self, group, kind):
        return f"{self.model.name}/{group}/{kind}"

    def option(self, group, kind):
        if group == "token_embd":
            return ["--token-embedding-type", kind]
        return [w for pattern in PATTERNS.get(group, [group]) for w in ("--tensor-type", f"{pattern}={kind}")]

    def front(self):
        """Mixes of least divergence for their bytes, dearest first, each a dictionary from group to type."""
        probes = self.bench.results.section("probes")
        options = {g: {k: probes[self.key(g, k)] for k in self.types(g)} for g in GROUPS}
        mixes = []
        for exponent in range(-120, 1):
            price = 10 ** (exponent / 12)  # nats a byte, of the whole range that can matter
            mix = {g: min(o, key=lambda k: o[k]["kld"] + price * o[k]["bytes"]) for g, o in options.items()}
            if mix not in mixes:
                mixes.append(mix)

        def total(mix):
            return sum(options[g][k]["bytes"] for g, k in mix.items())

        return sorted(mixes, key=total, reverse=True), total

    def score(self, count):
        """Scores mixes of the front, about evenly spread over its bytes."""
        mixes, total = self.front()
        largest, smallest = total(mixes[0]), total(mixes[-1])
        wanted = [largest * (smallest / largest) ** (i / max(count - 1, 1)) for i in range(count)]
        chosen = []
        for size in wanted:
            mix = min(mixes, key=lambda mix: abs(total(mix) - size))
            if mix not in chosen:
                chosen.append(mix)
        for mix in chosen:
            name = json.dumps(mix)
            if not self.bench.scored(MIXES, name, self.model):
                score(self.bench, self.model, MIXES, name, self.quantize(mix), mix=mix)


def mixes(bench, model):
    """Probes and scores the mixes of a model."""
    search = Mixes(bench, model)
    search.probe()
    search.score(bench.options.mixes)
