"""Sentences as ids of tokens, all of one length, by the library `tokenizers`.

A vocabulary is learned from sentences at hand (byte pairs: Sennrich et al., ACL 2016, arXiv
1508.07909), so that no word is unknown, or read from a tokenizer.json. Words are in small letters.
What follows the end of a sentence is the end again, as LiT's text tower expects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitrail import files
from vitrail.errors import ConfigError, DataError, extra

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

PAD, END = "<pad>", "</s>"
# More than this many different pieces are for large collections of sentences.
MOST = 8192


class Words:
    """Maps sentences to ids int64 (n, length): longer ones are cut, shorter ones padded.

    `pad` is the id that fills, by default that of the end of a sentence.
    """

    def __init__(self, tokenizer: Tokenizer, length: int, *, pad: int | None = None) -> None:
        self.length, self._tokenizer = length, tokenizer
        end = tokenizer.token_to_id(END)
        self._pad = pad if pad is not None else 0 if end is None else end
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length, pad_id=self._pad)

    @property
    def size(self) -> int:
        """Return how many ids there are."""
        return self._tokenizer.get_vocab_size()

    def __call__(self, sentences: Sequence[str]) -> np.ndarray:
        found = self._encoded(sentences)
        ids = np.array([one.ids for one in found], np.int64)
        return ids.reshape(len(sentences), self.length)

    def cut(self, sentences: Sequence[str]) -> int:
        """Return how many of the sentences are longer than fits."""
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        longer = sum(len(e.ids) > self.length for e in self._encoded(sentences))
        self._tokenizer.enable_truncation(self.length)
        self._tokenizer.enable_padding(length=self.length, pad_id=self._pad)
        return longer

    def _encoded(self, sentences: Sequence[str]) -> list[Encoding]:
        """Return the words of sentences. Raises DataError for rules that contradict themselves, on
        which the library panics: its exception is none that `except Exception` knows."""
        try:
            return self._tokenizer.encode_batch(list(sentences))
        except BaseException as error:
            if not _is_panic(error):
                raise
            raise DataError(
                f"the tokenizer's rules contradict themselves ({error}): restore its file"
            ) from None

    def text(self) -> str:
        """Return the tokenizer as the text of a tokenizer.json."""
        return self._tokenizer.to_str()


def learned(
    sentences: Iterable[str],
    length: int,
    *,
    most: int = MOST,
    pad: int | None = None,
    last: bool = False,
) -> Words:
    """Return words with a vocabulary of at most `most` pieces of the sentences.

    `pad` is as in `Words`. The end of a sentence is the `last` id of all where it is known by that,
    as in CLIP's text tower. Raises ConfigError where `most` does not hold the 256 bytes, and where
    the library is missing.

    Examples:
        >>> words = learned(["a red shirt", "a blue bag"], length=8)
        >>> words(["a red bag"]).shape
        (1, 8)
    """
    library = _library()
    if most < 300:
        raise ConfigError(f"vocabulary is {most}: every byte is a piece, so give at least 300")
    made = library.Tokenizer(library.models.BPE())
    made.normalizer = library.normalizers.Sequence(
        [library.normalizers.NFKC(), library.normalizers.Lowercase()]
    )
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=most - last, special_tokens=[PAD] if last else [PAD, END], show_progress=False,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(sentences, trainer)
    if last:
        made.add_special_tokens([END])
    made.post_processor = library.processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, made.token_to_id(END))]
    )
    return Words(made, length, pad=pad)


def opened(path: str | Path, length: int, *, pad: int | None = None) -> Words:
    """Return the words of a tokenizer.json. Raises DataError for a file that is none."""
    library = _library()
    try:
        made = library.Tokenizer.from_str(files.read(Path(path), files.LARGE_BYTES).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is not a tokenizer ({getattr(error, 'strerror', None) or 'not UTF-8'}): give "
            "a tokenizer.json of the library tokenizers"
        ) from error
    except BaseException as error:  # plain ones, and panics of Rust
        if not isinstance(error, Exception) and not _is_panic(error):
            raise
        raise DataError(
            f"{path} is not a tokenizer ({str(error)[:80]}): give a tokenizer.json of the library "
            "tokenizers"
        ) from error
    return Words(made, length, pad=pad)


def _is_panic(error: BaseException) -> bool:
    """Tell whether the library panicked, which no `except Exception` sees."""
    return type(error).__name__ == "PanicException"


def _library():
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.processors
        import tokenizers.trainers
    except ImportError:
        raise ConfigError(f"sentences need tokenizers: {extra('text')}") from None
    return tokenizers
