"""Reading tensors of torch, if it is installed."""

import impasto
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402


def test_tensors_are_those_of_the_checkpoint(lossless, tiny):
    originals = load_file(tiny / "model.safetensors")
    tensors = impasto.load_file(lossless, "pt")
    assert tensors.keys() == originals.keys()
    for name, original in originals.items():
        assert tensors[name].dtype == original.dtype and torch.equal(tensors[name], original), name
    with impasto.open(lossless, framework="pt", device="cpu") as f:
        name = "model.embed_tokens.weight"
        assert torch.equal(f.get_slice(name)[5:99, 3:7], originals[name][5:99, 3:7])
        out = torch.zeros_like(originals[name])
        f.read_into(name, out)
        assert torch.equal(out, originals[name])
        with pytest.raises(impasto.UsageError, match="not contiguous"):
            f.read_into(name, torch.zeros(out.shape[1], out.shape[0], dtype=out.dtype).t())
        export = f.export("safetensors")
        assert torch.equal(export.get_tensor(name), originals[name])
        with pytest.raises(impasto.TensorNotFoundError):
            export.get_shape("nothing")
