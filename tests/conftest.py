"""What tests of several rooms share: one complete model folder, and the shared data where there is some."""

import json
import os
import tempfile
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from burnish.models.checkpoint import save_checkpoint
from tests.tiny import BOS, EOS, PAD, tiny_decoder

# The models of the tests are tiny: a second thread only waits for the first, and badly so on a busy machine.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

_CACHE = tempfile.TemporaryDirectory(prefix="burnish-tests-")  # plans and variants of the tests' models
os.environ["XDG_CACHE_HOME"] = _CACHE.name

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SPECIAL = {BOS: "<bos>", EOS: "<eos>", PAD: "<pad>"}
CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
CHAT += "{% if add_generation_prompt %}assistant: {% endif %}"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete Hugging Face folder: a tiny random Llama over bytes with tokenizer and chat template. Read only."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    decoder = tiny_decoder(seed=3, max_positions=2048)
    save_checkpoint(decoder, folder, family="llama", dtype=torch.bfloat16)
    write_byte_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text long enough for an interval: no line of it is like another."""
    file = tmp_path_factory.mktemp("text") / "prose.txt"
    file.write_text("".join(f"Line {i} has {i * i % 97} foxes and {i * 7 % 31} hens.\n" for i in range(60)))
    return file


def write_byte_tokenizer(folder: Path) -> None:
    """One token per byte and three special ones; nothing is added to a text."""
    alphabet = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(alphabet, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(SPECIAL[token_id], special=True) for token_id in (BOS, EOS, PAD)])
    backend.save(str(folder / "tokenizer.json"))
    words = {"bos_token": SPECIAL[BOS], "eos_token": SPECIAL[EOS], "pad_token": SPECIAL[PAD], "chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))


def shared(path: str) -> Path:
    """A file of the shared data, or a skip."""
    if not (SHARED / path).exists():
        pytest.skip(f"shared data {path!r} is absent")
    return SHARED / path
