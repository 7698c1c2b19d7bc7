"""Models of transformers from files, if transformers is installed."""

import json
import subprocess
import sys

import impasto
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import impasto.transformers  # noqa: E402

AutoModel = transformers.AutoModelForCausalLM
TOKENS = torch.tensor([[1, 5, 9, 20, 33, 700]])


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits.float()


@pytest.fixture(scope="module")
def original(tiny):
    return AutoModel.from_pretrained(tiny, dtype=torch.float32)


@pytest.fixture(scope="module")
def folder(layered, files):
    impasto.transformers.write_folder(layered, files / "folder")
    return files / "folder"


def test_a_folder_opens_as_asked(folder, original, caplog):
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(logits(model), logits(original))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "MISSING" not in caplog.text and "UNEXPECTED" not in caplog.text
    assert AutoModel.from_pretrained(folder, dtype="auto").dtype == torch.bfloat16
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("The sea", return_tensors="pt")
    text = [tokenizer.decode(m.generate(**prompt, max_new_tokens=12, do_sample=False)[0]) for m in (model, original)]
    assert text[0] == text[1]


@pytest.mark.parametrize("layer", [1, 2, None])
def test_texts_are_those_of_our_runtime(layered, tiny, layer):
    """Greedy texts agree with those of the runtime in binary32, also from the layers."""
    model = impasto.transformers.from_pretrained(layered, layer=layer, packed=layer is not None, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    prompt = tokenizer("Once upon a time", return_tensors="pt")
    generated = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0][prompt["input_ids"].shape[1] :]
    ours = impasto.Model(layered, layer=layer, residence="float")
    pieces = ours.generate("Once upon a time", max_tokens=24)
    text = "".join(pieces)
    assert text and list(pieces.tokens) == generated.tolist()


def test_a_model_without_a_head_has_the_dtype_that_was_asked_for(folder, original):
    """The loader changes the names of its tensors."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.norm.weight, original.model.norm.weight)


def test_logits_of_a_layer_are_those_of_its_decoded_tensors(layered, original):
    """The reference is the original with the tensors that the package reads, which the runtime computes with in binary32."""
    model = impasto.transformers.from_pretrained(layered, layer=1, dtype=torch.float32)
    with impasto.open(layered, framework="pt", layer=1) as file:
        weights = {name: file.get_tensor(name).float() for name in file.keys()}
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights.get(name, weights["model.embed_tokens.weight"])), name
    assert (logits(model) - logits(original)).abs().max() > 0.1


def test_packed_modules_compute_what_floats_compute(layered):
    floats = impasto.transformers.from_pretrained(layered, layer=2, dtype=torch.float32)
    packed = impasto.transformers.from_pretrained(layered, layer=2, packed=True, dtype=torch.float32)
    named = {n: m for n, m in packed.named_modules() if isinstance(m, impasto.transformers.PackedLinear)}
    modules = list(named.values())
    assert len(modules) == 7 * packed.config.num_hidden_layers
    assert not any("q_proj.weight" in name for name, _ in packed.named_parameters())
    assert all(m.matrix.nbytes < m.in_features * m.out_features * 2 for m in modules)
    # Tensors that are read are rounded to the dtype of the checkpoint, packed ones are not.
    assert (logits(packed) - logits(floats)).abs().max() < 1e-2 * logits(floats).abs().max()
    for name, module in named.items():
        floats.get_submodule(name).weight.data = torch.from_numpy(module.matrix.decode())
    assert (logits(packed) - logits(floats)).abs().max() < 1e-5 * logits(floats).abs().max()
    x = torch.randn(2, 3, modules[0].in_features, requires_grad=True)
    modules[0](x).square().sum().backward()
    y = x.detach().requires_grad_()
    torch.nn.functional.linear(y, torch.from_numpy(modules[0].matrix.decode())).square().sum().backward()
    assert torch.allclose(x.grad, y.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("packed", [False, True])
def test_peft_trains_an_adapter_over_it(layered, packed):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = impasto.transformers.from_pretrained(layered, layer=1, packed=packed, dtype=torch.float32)
    config = peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=1e-2), []
    for _ in range(8):
        loss = model(TOKENS, labels=TOKENS).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0], losses
    if packed:
        with pytest.raises(TypeError, match="packed weights cannot be changed"):
            model.merge_and_unload()


def test_what_cannot_be_done_is_said(folder, layered, files, tmp_path):
    model = AutoModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="impasto decode FILE --to safetensors"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    with pytest.raises(FileExistsError, match="there is something already"):
        impasto.transformers.write_folder(layered, folder)
    with pytest.raises(impasto.Error, match="layer"):
        impasto.transformers.from_pretrained(layered, layer=9)
    with pytest.raises(ValueError, match="on the CPU only"):
        impasto.transformers.from_pretrained(layered, packed=True, device_map="meta")
    with pytest.raises(ValueError, match="leave out disable_mmap"):
        AutoModel.from_pretrained(folder, disable_mmap=True)
    with pytest.raises(ValueError, match="under the names of linear modules"):
        impasto.transformers.from_pretrained(layered, packed=True, auto_class=transformers.AutoModel)
    decode = [sys.executable, "-m", "impasto", "decode", layered, "--to", "gguf", "--type", "q8_0", "-o", "tiny.gguf"]
    subprocess.run(decode, check=True, capture_output=True)
    impasto.encode("tiny.gguf", "gguf.impasto")
    with pytest.raises(impasto.InvalidError, match="made from a GGUF"):
        impasto.transformers.from_pretrained("gguf.impasto")
    impasto.transformers.write_folder(layered, tmp_path / "odd")
    config = json.loads((tmp_path / "odd" / "config.json").read_text())
    config["quantization_config"]["bits"] = 4
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="unknown key 'bits'"):
        AutoModel.from_pretrained(tmp_path / "odd")
