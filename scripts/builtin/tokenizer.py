"""The byte-level BPE tokenizer of the built-in models and its chat format."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

END_OF_TEXT, SYSTEM, USER, ASSISTANT, END_OF_TURN = SPECIALS = (
    "<|endoftext|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role'] + '; use system, user or assistant') }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

Tokens = npt.NDArray[np.int64]


class Turn(NamedTuple):
    """One message of a conversation; ``role`` is system, user or assistant."""

    role: str
    text: str


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE as in GPT-2 (any text round-trips); encoding puts ``<|endoftext|>`` in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        pair=f"{END_OF_TEXT} $A {END_OF_TEXT} $B",
        special_tokens=[(END_OF_TEXT, SPECIALS.index(END_OF_TEXT))],
    )
    return tokenizer


def end_tokens() -> list[int]:
    """The tokens that end an answer: end of text, end of turn."""
    return [SPECIALS.index(END_OF_TEXT), SPECIALS.index(END_OF_TURN)]


def load_or_train(path: Path, texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """The tokenizer at ``path``, trained on ``texts`` and written there first if it is missing."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        train_tokenizer(texts, vocab_size).save(str(path))
    return Tokenizer.from_file(str(path))


def encode_all(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Tokens]:
    """Token numbers of each text, its leading ``<|endoftext|>`` included."""
    return [np.asarray(encoding.ids, np.int64) for encoding in tokenizer.encode_batch_fast(texts)]


def chat_text(turns: Iterable[Turn]) -> str:
    """A conversation as ``CHAT_TEMPLATE`` writes it, without the leading ``<|endoftext|>``."""
    return "".join(f"<|{turn.role}|>{turn.text.strip()}{END_OF_TURN}" for turn in turns)


def write_tokenizer(tokenizer: Tokenizer, folder: Path, max_positions: int) -> None:
    """Write tokenizer.json and tokenizer_config.json in the Hugging Face layout."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT, END_OF_TURN],
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_positions,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
