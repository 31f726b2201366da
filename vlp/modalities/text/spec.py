"""The tokenizer that a recipe asks for."""

from __future__ import annotations

from typing import Literal

from vlp.core.config import config


@config
class TextSpec:
    """Which tokenizer, and what happens to texts beyond `length` tokens (special ones counted).

    `path`: `hf` a folder or cached hub name; `open_clip` a merges file, none for the one that open_clip ships;
    `sentencepiece` a `.model` file. `wordpiece` and `sentencepiece` without a path are trained on the training texts, with
    `vocab_size` pieces of words that at least `shared_by` patients share (fewer where there are few). A `kind` of your own is
    `my_package.my_module:MyTokenizer`. `overflow`: `truncate` keeps the closing special token and counts the text, `error`
    raises.
    """

    kind: str = "wordpiece"
    path: str | None = None
    length: int = 256
    overflow: Literal["truncate", "error"] = "truncate"
    vocab_size: int = 1000
    shared_by: int = 5

    def __post_init__(self) -> None:
        if self.length < 3:
            raise ValueError(f"length must be at least 3, found {self.length}")
        if self.shared_by < 2:
            raise ValueError(
                f"shared_by must be at least 2, found {self.shared_by}: else a token may be one patient's name"
            )
        if self.kind == "hf" and not self.path:
            raise ValueError(
                "kind hf needs a path: a folder with tokenizer.json, or the name of a cached hub repository"
            )
