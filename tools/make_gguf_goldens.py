#!/usr/bin/env python3
"""Golden files for the translation between GGUF and Hugging Face folders (crates/impasto-checkpoint/tests/golden_hf).

    python tools/make_gguf_goldens.py [--out crates/impasto-checkpoint/tests/golden_hf]

Needs transformers, tokenizers, sentencepiece, numpy and gguf. For each architecture it writes

  NAME.gguf                  keys and a few small tensors, laid out by the gguf package as llama.cpp's converter does
  NAME/config.json           the config.json of transformers for the same model (including `rope_parameters`)
  NAME/tokenizer.json        the original tokenizer
  NAME/tokenizer_config.json
  NAME/expected.json         the fields that the rebuilt config.json must have; texts, their ids and the decoded ids

The tokenizers are tiny and trained here: byte-level BPE by tokenizers, sentencepiece's by sentencepiece, converted to a
tokenizer.json with transformers' `generate_merges`. The script checks that both give the same ids.
"""

import argparse
import io
import json
import math
import pathlib

import gguf
import numpy as np
import sentencepiece
import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.convert_slow_tokenizer import generate_merges
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

ROOT = pathlib.Path(__file__).resolve().parent.parent
HIDDEN = 16

CORPUS = """The keeper of the lighthouse counted the waves before dawn and wrote each number down.
When the wind turned, the harbour filled with small boats, and the children ran down to see them.
"I'll be there," she said, "and they'll be there too; we've waited long enough, haven't we?"
In 1987 there were 12 ships; in 2024 there were 1,204, or 3.5 times as many as anyone had hoped.
    for line in reader:
        total += int(line)
    return total / max(1, count)
Über den Dächern von Zürich kreisen die Schwalben, und unten läuten die Glocken.
Le phare éclaire la mer toutes les sept secondes; l'été, les touristes comptent les éclats.
The painter laid the colour on thickly, layer over layer, until the light itself seemed to have weight.
THE SIGN READ: DO NOT FEED THE GULLS. Nobody could say who had painted it, or when, or why.
the the the and and of of to to in in is is it it that that was was for for with with as as
Маяк стоит на скале над морем. Чайки кричат над водой.
灯台は海の上に立っている。 海は広い。
"""

TEXTS = [
    "",
    " ",
    "Hello world",
    " The lighthouse keeper wrote it down.",
    "three   spaces,\ttab\n\n  lines \r\n\r\n",
    "a     b          c" + " " * 40 + "d",
    "1234567890 3.14159 1,204 ⅷ ½ ٣٤٥ in 2024",
    "I'll they'd WE'VE haven't ISN'T 'tis",
    "CamelCaseWords and UPPER lower ÜBER straße",
    "emoji 🚀 😶\u200d🌫️ and CJK 灯台は海、 나무",
    "e\u0301 é \u212b ﬁ",
    "    for line in reader:\n        total += 1 // 2 == ==> <=>\n",
    "Маяк стоит над морем",
    "▁ literal ▁▁ underline",
    "<0x41> <unk> text",
]

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def special(text):
    return AddedToken(text, special=True, normalized=False)


def begin_with(tokenizer, text):
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{text} $A", pair=f"{text} $A {text}:1 $B:1", special_tokens=[(text, tokenizer.token_to_id(text))]
    )


def byte_level(expression, *, added, nfc=False, ignore_merges=False, bos=None, first=()):
    """A byte-level BPE tokenizer trained on CORPUS. `first` are special tokens with the lowest ids."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[special(text) for text in first],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS.splitlines(keepends=True), trainer)
    tokenizer.add_tokens(added)
    if bos:
        begin_with(tokenizer, bos)
    return tokenizer


def piece_model(*, prefix, control, user_defined, ids):
    """A sentencepiece BPE model trained on CORPUS."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for line in CORPUS.splitlines() if line),
        model_writer=model,
        model_type="bpe",
        vocab_size=440,
        character_coverage=0.99,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        control_symbols=control,
        user_defined_symbols=user_defined,
        minloglevel=2,
        **ids,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def piece_tokenizer(pieces, *, prefix, added, bos):
    """The tokenizer.json that transformers derives from it (convert_slow_tokenizer.py, Llama with legacy, Gemma)."""
    texts = [pieces.IdToPiece(i) for i in range(pieces.GetPieceSize())]
    vocab = {text: i for i, text in enumerate(texts)}
    scores = {text: pieces.GetScore(i) for i, text in enumerate(texts)}
    skip = [t for i, t in enumerate(texts) if pieces.IsControl(i) or pieces.IsUnknown(i) or pieces.IsByte(i)]
    merges = generate_merges(vocab, scores, skip)
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token=texts[pieces.unk_id()], fuse_unk=True, byte_fallback=True)
    )
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    tokenizer.add_tokens(added)
    begin_with(tokenizer, bos)
    return tokenizer


def looks_special(text):
    return text in ("<pad>", "<mask>") or text.startswith("<|") and text.endswith("|>")


def add_bytes_vocabulary(writer, tokenizer, rows, pre):
    """Tokens as the converter's `_set_vocab_gpt2` writes them."""
    parts = json.loads(tokenizer.to_str())
    by_id = {i: text for text, i in tokenizer.get_vocab(with_added_tokens=True).items()}
    added = {token["id"]: token for token in parts["added_tokens"]}
    tokens, types = [], []
    for i in range(rows):
        tokens.append(by_id.get(i, f"[PAD{i}]"))
        if i not in by_id:
            types.append(gguf.TokenType.UNUSED)
        elif i in added:
            control = added[i]["special"] or looks_special(by_id[i])
            types.append(gguf.TokenType.CONTROL if control else gguf.TokenType.USER_DEFINED)
        else:
            types.append(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in parts["model"]["merges"]])


def add_pieces_vocabulary(writer, pieces, tokenizer, rows, prefix):
    """Tokens as the converter's `_create_vocab_sentencepiece` writes them."""
    tokens = [f"[PAD{i}]" for i in range(rows)]
    scores, types = [-10000.0] * rows, [gguf.TokenType.UNUSED] * rows
    for i in range(pieces.GetPieceSize()):
        tokens[i], scores[i], types[i] = pieces.IdToPiece(i), pieces.GetScore(i), gguf.TokenType.NORMAL
        if pieces.IsUnknown(i):
            types[i] = gguf.TokenType.UNKNOWN
        elif pieces.IsControl(i):
            types[i] = gguf.TokenType.CONTROL
        elif pieces.IsByte(i):
            types[i] = gguf.TokenType.BYTE
    for token in json.loads(tokenizer.to_str())["added_tokens"]:
        i, text = token["id"], token["content"]
        control = token["special"] or looks_special(text)
        tokens[i] = text if control else text.replace("▁", " ")
        types[i] = gguf.TokenType.CONTROL if control else gguf.TokenType.USER_DEFINED
        scores[i] = -1000.0
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_add_space_prefix(prefix)


def add_sizes(writer, config, *, key_length=True):
    """The keys that all architectures have."""
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if key_length:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def matrix(writer, name, *shape):
    """A tensor of which only the name and shape matter; 8-bit integers keep it small."""
    writer.add_tensor(name, np.zeros(shape, dtype=np.int8))


class Golden:
    """One model: its files."""

    def __init__(self, out, name, arch):
        self.out, self.name = out, name
        self.writer = gguf.GGUFWriter(out / f"{name}.gguf", arch)
        self.writer.add_type(gguf.GGUFType.MODEL)
        self.writer.add_name(f"Tiny {name}")

    def finish(self, config, tokenizer, tokenizer_config, fields, *, texts=(), pieces=None):
        folder = self.out / self.name
        folder.mkdir(parents=True, exist_ok=True)
        ids = [tokenizer.token_to_id(tokenizer_config.get(f"{t}_token")) if f"{t}_token" in tokenizer_config else None
               for t in ("bos", "eos", "unk", "pad")]
        handlers = ("add_bos_token_id", "add_eos_token_id", "add_unk_token_id", "add_pad_token_id")
        for handler, token in zip(handlers, ids):
            if token is not None:
                getattr(self.writer, handler)(token)
        self.writer.add_add_bos_token(tokenizer.post_processor is not None)
        self.writer.add_chat_template(tokenizer_config["chat_template"])
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()

        written = config.to_dict()
        for key in ("transformers_version", "_name_or_path", "chunk_size_feed_forward", "id2label", "label2id"):
            written.pop(key, None)
        written["architectures"] = [fields["architectures"][0]]
        self.write("config.json", written)
        self.write("tokenizer.json", json.loads(tokenizer.to_str()))
        self.write("tokenizer_config.json", tokenizer_config)
        cases = []
        for text in [*TEXTS, *texts]:
            plain = tokenizer.encode(text, add_special_tokens=False).ids
            if pieces is not None and not any(t in text for t in ["<", "▁"]) and text:
                assert plain == pieces.EncodeAsIds(text), (self.name, text, plain, pieces.EncodeAsIds(text))
            whole = tokenizer.encode(text).ids
            cases.append({"text": text, "plain": plain, "ids": whole, "decoded": tokenizer.decode(whole)})
        self.write("expected.json", {"config": fields, "cases": cases})

    def write(self, name, value):
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        (self.out / self.name / name).write_text(text + "\n", encoding="utf-8")


def sizes(config, **others):
    """The fields of config.json that every rebuilt one has, in the older dialect."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")
    fields = {name: getattr(config, name) for name in names}
    return fields | {"model_type": config.model_type, "bos_token_id": config.bos_token_id} | others


COMMON = dict(hidden_size=HIDDEN, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def llama3(out):
    """Llama 3: numbers in threes, merges ignored for whole words, frequencies divided by a tensor, padding."""
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = byte_level(LLAMA3, added=[special(t) for t in names], ignore_merges=True)
    begin_with(tokenizer, names[0])
    rows = tokenizer.get_vocab_size() + 3
    scaling = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=8192)
    bos, eos = (tokenizer.token_to_id(t) for t in (names[0], names[4]))
    config = transformers.LlamaConfig(
        **COMMON, vocab_size=rows, head_dim=64, max_position_embeddings=131072, rms_norm_eps=1e-5,
        rope_parameters=scaling | {"rope_theta": 500000.0}, tie_word_embeddings=True,
        bos_token_id=bos, eos_token_id=eos,
    )
    golden = Golden(out, "llama3", "llama")
    add_sizes(golden.writer, config)
    golden.writer.add_vocab_size(rows)
    golden.writer.add_rope_dimension_count(64)
    golden.writer.add_rope_freq_base(500000.0)
    add_bytes_vocabulary(golden.writer, tokenizer, rows, "llama-bpe")
    matrix(golden.writer, "token_embd.weight", rows, HIDDEN)
    plain = 1.0 / 500000.0 ** (np.arange(0, 64, 2, dtype=np.float32) / 64)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    golden.writer.add_tensor("rope_freqs.weight", plain / scaled.numpy())
    fields = sizes(config, architectures=["LlamaForCausalLM"], head_dim=64, rope_theta=500000.0, rope_scaling=scaling,
                   attention_bias=False, mlp_bias=False, eos_token_id=eos)
    texts = ["<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "<|begin_of_text|> twice"]
    chat = {"bos_token": names[0], "eos_token": names[4], "chat_template": "{{ bos_token }}{{ messages[0].content }}"}
    golden.finish(config, tokenizer, chat, fields, texts=texts)


def qwen2(out):
    """Qwen 2: composed text, single digits, biases, tool tokens that are not special, YaRN."""
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tools = [AddedToken(t, special=False, normalized=False) for t in ("<tool_call>", "</tool_call>")]
    tokenizer = byte_level(QWEN2, added=[special(t) for t in names] + tools, nfc=True)
    rows = tokenizer.get_vocab_size()
    eos = tokenizer.token_to_id(names[2])
    yarn = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)
    config = transformers.Qwen2Config(
        **COMMON, vocab_size=rows, max_position_embeddings=131072, tie_word_embeddings=False,
        rope_parameters=yarn | {"rope_theta": 1000000.0}, bos_token_id=tokenizer.token_to_id(names[0]), eos_token_id=eos,
    )
    golden = Golden(out, "qwen2", "qwen2")
    config.head_dim = HIDDEN // 2
    add_sizes(golden.writer, config, key_length=False)
    del config.head_dim
    golden.writer.add_rope_freq_base(1000000.0)
    golden.writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    golden.writer.add_rope_scaling_factor(4.0)
    golden.writer.add_rope_scaling_orig_ctx_len(32768)
    add_bytes_vocabulary(golden.writer, tokenizer, rows, "qwen2")
    matrix(golden.writer, "token_embd.weight", rows, HIDDEN)
    matrix(golden.writer, "output.weight", rows, HIDDEN)
    matrix(golden.writer, "blk.0.attn_q.weight", HIDDEN, HIDDEN)
    for part, width in (("q", HIDDEN), ("k", HIDDEN // 2), ("v", HIDDEN // 2)):
        matrix(golden.writer, f"blk.0.attn_{part}.bias", width)
    fields = sizes(config, architectures=["Qwen2ForCausalLM"], head_dim=8, rope_theta=1000000.0, rope_scaling=yarn,
                   use_sliding_window=False, eos_token_id=eos)
    texts = ["<|im_start|>user\ncall <tool_call>{}</tool_call><|im_end|>\n"]
    chat = {"bos_token": names[0], "eos_token": names[2], "pad_token": names[0], "chat_template": CHATML}
    golden.finish(config, tokenizer, chat, fields, texts=texts)


def mistral(out):
    """Mistral with tekken: words by case, special tokens first, a sliding window, no rotary scaling."""
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    tokenizer = byte_level(TEKKEN, added=[], ignore_merges=True, first=names)
    begin_with(tokenizer, "<s>")
    rows = tokenizer.get_vocab_size()
    config = transformers.MistralConfig(
        **COMMON, vocab_size=rows, head_dim=12, max_position_embeddings=32768, sliding_window=4096, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, bos_token_id=1, eos_token_id=2,
    )
    golden = Golden(out, "mistral", "llama")
    add_sizes(golden.writer, config)
    golden.writer.add_vocab_size(rows)
    golden.writer.add_rope_dimension_count(12)
    golden.writer.add_rope_freq_base(10000.0)
    golden.writer.add_sliding_window(4096)
    add_bytes_vocabulary(golden.writer, tokenizer, rows, "tekken")
    matrix(golden.writer, "token_embd.weight", rows, HIDDEN)
    matrix(golden.writer, "output.weight", rows, HIDDEN)
    fields = sizes(config, architectures=["MistralForCausalLM"], head_dim=12, rope_theta=10000.0, sliding_window=4096,
                   eos_token_id=2)
    chat = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": "[INST]{{ messages[0].content }}[/INST]"}
    golden.finish(config, tokenizer, chat, fields, texts=["[INST] Hi there [/INST] Hello</s>"])


def phi3(out):
    """Phi 3: sentencepiece with a space before the text, tokens that swallow the space after them, longrope."""
    pieces = piece_model(prefix=True, control=[], user_defined=[], ids={})
    stripping = dict(special=True, normalized=False, rstrip=True)
    added = [special("<unk>"), special("<s>"), AddedToken("</s>", special=False, normalized=False, rstrip=True),
             special("<|endoftext|>")]
    added += [AddedToken(t, **stripping) for t in ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>")]
    tokenizer = piece_tokenizer(pieces, prefix=True, added=added, bos="<s>")
    rows = tokenizer.get_vocab_size() + 4
    pairs = 3
    short = [1.0 + i / 64 for i in range(pairs)]
    long = [1.5 + i * i / 4 for i in range(pairs)]
    longrope = dict(rope_type="longrope", long_factor=long, short_factor=short)
    eos = tokenizer.token_to_id("<|endoftext|>")
    config = transformers.Phi3Config(
        **COMMON, vocab_size=rows, max_position_embeddings=131072, rms_norm_eps=1e-5,
        original_max_position_embeddings=4096, sliding_window=2047, bos_token_id=1, eos_token_id=eos, pad_token_id=eos,
        rope_parameters=longrope | {"rope_theta": 10000.0, "partial_rotary_factor": 0.75},
    )
    golden = Golden(out, "phi3", "phi3")
    config.head_dim = HIDDEN // 2
    add_sizes(golden.writer, config, key_length=False)
    del config.head_dim
    golden.writer.add_rope_dimension_count(6)
    golden.writer.add_rope_freq_base(10000.0)
    golden.writer.add_rope_scaling_orig_ctx_len(4096)
    golden.writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(32) / math.log(4096)))
    golden.writer.add_sliding_window(2047)
    add_pieces_vocabulary(golden.writer, pieces, tokenizer, rows, prefix=True)
    matrix(golden.writer, "token_embd.weight", rows, HIDDEN)
    matrix(golden.writer, "output.weight", rows, HIDDEN)
    golden.writer.add_tensor("rope_factors_long.weight", np.array(long, dtype=np.float32))
    golden.writer.add_tensor("rope_factors_short.weight", np.array(short, dtype=np.float32))
    scaling = longrope | {"original_max_position_embeddings": 4096}
    fields = sizes(config, architectures=["Phi3ForCausalLM"], head_dim=8, rope_theta=10000.0, rope_scaling=scaling,
                   partial_rotary_factor=0.75, original_max_position_embeddings=4096, sliding_window=2047,
                   eos_token_id=eos, pad_token_id=eos)
    texts = ["<|user|>\nHello<|end|>\n<|assistant|>  Hi</s> there", "<s> a <|endoftext|> b"]
    chat = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>", "pad_token": "<|endoftext|>",
            "chat_template": "{{ bos_token }}<|user|>\n{{ messages[0].content }}<|end|>\n"}
    golden.finish(config, tokenizer, chat, fields, texts=texts, pieces=pieces)


def gemma3(out):
    """Gemma 3: sentencepiece without a space before the text, runs of spaces and lines as tokens, two thetas."""
    runs = ["▁" * n for n in range(2, 17)] + ["\n" * n for n in range(1, 5)]
    names = ["<start_of_turn>", "<end_of_turn>"]
    pieces = piece_model(prefix=False, control=[], user_defined=names + runs, ids=dict(
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>"))
    added = [special(t) for t in ("<pad>", "<eos>", "<bos>", "<unk>", *names)]
    added += [AddedToken(t, special=False, normalized=False) for t in runs]
    tokenizer = piece_tokenizer(pieces, prefix=False, added=added, bos="<bos>")
    rows = tokenizer.get_vocab_size()
    config = transformers.Gemma3TextConfig(
        **(COMMON | dict(num_hidden_layers=7)), vocab_size=rows, head_dim=8, max_position_embeddings=131072,
        sliding_window=512, query_pre_attn_scalar=8, bos_token_id=2, eos_token_id=1, pad_token_id=0,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    )
    golden = Golden(out, "gemma3", "gemma3")
    add_sizes(golden.writer, config)
    golden.writer.add_rope_freq_base(1000000.0)
    golden.writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    golden.writer.add_rope_scaling_factor(8.0)
    golden.writer.add_sliding_window(512)
    add_pieces_vocabulary(golden.writer, pieces, tokenizer, rows, prefix=False)
    matrix(golden.writer, "token_embd.weight", rows, HIDDEN)
    fields = sizes(config, architectures=["Gemma3ForCausalLM"], head_dim=8, rope_theta=1000000.0,
                   rope_local_base_freq=10000.0, rope_scaling={"rope_type": "linear", "factor": 8.0},
                   sliding_window=512, layer_types=config.layer_types, query_pre_attn_scalar=8,
                   hidden_activation="gelu_pytorch_tanh", attn_logit_softcapping=None, final_logit_softcapping=None,
                   eos_token_id=1, pad_token_id=0)
    texts = ["<start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n", "a\n\n\n\n\n\nb" + " " * 20 + "c"]
    chat = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>",
            "chat_template": "{{ bos_token }}<start_of_turn>user\n{{ messages[0].content }}<end_of_turn>\n"}
    golden.finish(config, tokenizer, chat, fields, texts=texts, pieces=pieces)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "crates/impasto-checkpoint/tests/golden_hf")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for make in (llama3, qwen2, mistral, phi3, gemma3):
        make(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size} bytes; transformers {transformers.__version__}, tokenizers {tokenizers.__version__}, "
          f"sentencepiece {sentencepiece.__version__}")


if __name__ == "__main__":
    main()
