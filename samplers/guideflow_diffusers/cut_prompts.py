"""Prompts that the text encoders of a pipeline do not read to their end: told, not cut in silence."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from guideflow._told import shorten


@contextmanager
def watched(pipe: Any, prompts: Sequence[str], options: Mapping[str, Any]) -> Iterator[Any]:
    """Lend a view of a pipeline whose tokenizers notice what they cut off, and warn of what none of them reads.

    Where one encoder reads less than another, as CLIP beside T5, what the longer one reads is seen.

    Arguments:
        pipe: The pipeline, which stays as it is.
        prompts: All that are to be encoded, negative ones too.
        options: Of a call of the pipeline.
    """
    view, seen = copy.copy(pipe), dict[str, int]()
    kept = None  # Qwen-Image cuts once more, what it has encoded
    if (template := getattr(pipe, "prompt_template_encode_start_idx", None)) is not None:
        kept = template + (options.get("max_sequence_length") or 0)
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        if callable(found := vars(pipe).get(name)):
            vars(view)[name] = _Watched(found, seen, kept)
    yield view
    for text, read in seen.items():
        # Prompts that stand for several tokens of textual inversion are not found as they were given.
        prompt, start = _prompt_in(text, prompts) or (text if hasattr(pipe, "maybe_convert_prompt") else "", 0)
        if lost := text[max(read, start) : start + len(prompt)].strip():
            warnings.warn(
                f"A prompt is longer than the text encoder reads: {shorten(lost, 200)!r} is not seen. Shorten the "
                f"prompt {shorten(prompt, 40)!r}.",
                stacklevel=3,
            )


def _prompt_in(text: str, prompts: Sequence[str]) -> tuple[str, int] | None:
    """Find which prompt a template was put around, and where it begins in the text."""
    found = [(one, text.lower().rfind(one.lower())) for prompt in prompts if (one := prompt.strip())]
    return max(((one, start) for one, start in found if start >= 0), key=lambda pair: len(pair[0]), default=None)


class _Watched:
    """A tokenizer that notes how many letters of each text it reads; it is asked all else.

    Arguments:
        tokenizer: The tokenizer.
        seen: Where the most letters of each text that any tokenizer reads are noted.
        kept: Number of tokens of which more are dropped later on.
    """

    def __init__(self, tokenizer: Any, seen: dict[str, int], kept: int | None) -> None:
        vars(self).update(_tokenizer=tokenizer, _seen=seen, _kept=kept)

    def __call__(self, text: Any, *more: Any, **options: Any) -> Any:
        if options.get("truncation"):
            length = options.get("max_length") or self._tokenizer.model_max_length
            for one in [text] if isinstance(text, str) else text:
                self._seen[one] = max(self._seen.get(one, 0), self._read(one, min(length, self._kept or length)))
        return self._tokenizer(text, *more, **options)

    def _read(self, text: str, length: int) -> int:
        if len(self._tokenizer(text, verbose=False).input_ids) <= length:
            return len(text)
        cut = {"truncation": True, "max_length": length}
        if self._tokenizer.is_fast:
            return max((end for _, end in self._tokenizer(text, return_offsets_mapping=True, **cut).offset_mapping))
        return len(self._tokenizer.decode(self._tokenizer(text, **cut).input_ids, skip_special_tokens=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_tokenizer"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._tokenizer, name, value)
