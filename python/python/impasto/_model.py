"""Models that run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ._impasto import Model as Native
from ._impasto import Pieces
from ._jobs import Callback
from ._words import Layer, Path, Size, words


class Model:
    """A model in memory: network, tokenizer and chat template."""

    def __init__(
        self,
        path: Path,
        *,
        layer: Layer | None = None,
        budget: Size | None = None,
        bpw: float | None = None,
        threads: int = 0,
        residence: str | None = None,
        activations: str | None = None,
        kv: str | Mapping[str, str] | None = None,
        context: int | None = None,
        cache: Path | None = None,
        memory_limit: Size | None = None,
        base: Path | Sequence[Path] | None = None,
        progress: Callback | None = None,
        **options: Any,
    ) -> None:
        """Load a model from an .impasto file, the address of one, or a checkpoint.

        Options are those of `impasto run`: how much of the file is used, the form of the weights in memory (`residence`), the
        precision of keys and values (`kv`), a folder for packed weights (`cache`), and, for an address, those of `open`.
        """
        given = {
            "layer": layer,
            "budget": budget,
            "bpw": bpw,
            "threads": threads,
            "residence": residence,
            "activations": activations,
            "kv": kv,
            "context": context,
            "cache": cache,
            "memory_limit": memory_limit,
            "base": base,
            **options,
        }
        self._native = Native(words([path], given), progress)

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Pieces:
        """Continue a text, or tokens. The result gives the text piece by piece, as it is generated.

        With temperature 0, every token is the most likely one. The text ends at `max_tokens`, at a text of `stop`, or where the
        model ends it. Generation stops when the result is closed or dropped. The interpreter is free meanwhile.
        """
        return self._native.generate(
            prompt if isinstance(prompt, str) else list(prompt),
            _options(
                max_tokens=max_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                presence_penalty=presence_penalty,
                frequency_penalty=frequency_penalty,
                seed=seed,
                stop=stop,
            ),
        )

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        template_variables: Mapping[str, Any] | None = None,
        max_tokens: int = 1024,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Pieces:
        """Answer a conversation, through the chat template of the model.

        Messages and tools are those of the OpenAI API: `[{"role": "user", "content": "Hello"}]`. The rest is that of `generate`.
        """
        return self._native.chat(
            json.dumps(list(messages)),
            json.dumps(list(tools)),
            json.dumps(dict(template_variables or {})),
            _options(
                max_tokens=max_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                presence_penalty=presence_penalty,
                frequency_penalty=frequency_penalty,
                seed=seed,
                stop=stop,
            ),
        )

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Return the tokens of a text, with the special tokens that begin or end texts if `special`."""
        return self._native.tokenize(text, special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return self._native.detokenize(list(tokens))

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights in memory."""
        return self._native.memory_bytes

    @property
    def max_context(self) -> int:
        """Most tokens of a text, with its prompt."""
        return self._native.max_context

    @property
    def threads(self) -> int:
        """Number of threads that the model runs on."""
        return self._native.threads

    @property
    def notes(self) -> list[str]:
        """What the model does other than its configuration says, and matrices that take more memory than they should."""
        return self._native.notes


def _options(*, stop: Sequence[str], **numbers: float) -> dict[str, Any]:
    return {**numbers, "stop": [stop] if isinstance(stop, str) else list(stop)}
