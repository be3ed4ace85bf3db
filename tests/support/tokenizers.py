"""Small tokenizers of the common kinds, each with the control tokens of all of tests.support.chat_templates."""

import json
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CONTROL = (
    "<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>",
)  # fmt: skip

TEXT = (
    "user assistant system model User: Assistant: System: Which lamp is the best one for a small room? The paper lamp "
    "is the best lamp, and it costs 15 coins. Name two hats, please. A cap and a beret are hats! Good day to you all. "
    "I have to think about this for a while. <think> </think> No, that is not right; the answer is positive. "
) * 3


def word_level() -> Tokenizer:
    """A token is a word or a run of other characters; a space goes with the word behind it, as in GPT-2."""
    tokenizer = Tokenizer(models.WordLevel({}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+| ?[^\s\w]+|\s+"), behavior="isolated")
    tokenizer.train_from_iterator(
        [TEXT, TEXT.replace(" ", "\n"), "\n\n"],
        trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False),
    )
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def byte_level() -> Tokenizer:
    """Byte-level BPE with merges: a space goes with the word behind it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def metaspace() -> Tokenizer:
    """Unigram with a mark for spaces, at the text's start as well, as SentencePiece makes it; it knows bytes, and `<s>`
    and `</s>` as pieces."""
    space = pre_tokenizers.Metaspace(prepend_scheme="first")
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = space
    trainer = trainers.UnigramTrainer(
        vocab_size=120, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    trained.train_from_iterator([TEXT], trainer)
    pieces = [(piece, score) for piece, score in json.loads(trained.to_str())["model"]["vocab"]]
    tokenizer = Tokenizer(models.Unigram([*pieces, *((piece, -1000.0) for piece in BYTES)], 0, byte_fallback=True))
    tokenizer.pre_tokenizer = space
    tokenizer.decoder = SENTENCE_PIECE
    return tokenizer


def byte_fallback() -> Tokenizer:
    """BPE on a text whose spaces have been replaced, unknown characters as their bytes, as in Llama 2."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=200, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    vocabulary = dict(learned["vocab"])
    for piece in (*BYTES, "<unk>"):
        vocabulary[piece] = len(vocabulary)
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = SENTENCE_PIECE
    return tokenizer


BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))

SENTENCE_PIECE = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])

KINDS = {"words": word_level, "bytes": byte_level, "metaspace": metaspace, "byte fallback": byte_fallback}


@cache
def _made(kind: str) -> str:
    tokenizer = KINDS[kind]()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL])
    return tokenizer.to_str()


def tokenizer_of(kind: str, template: str | None) -> Any:
    """A fresh tokenizer of a kind with a chat template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_made(kind)),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer
