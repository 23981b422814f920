"""Texts that are hard to cut into tokens, and how the ids of very many prompts become short."""

import hashlib
import json
import re

import numpy as np

PER_TASK = 9
_RUN = re.compile(r"( |\n|\t)\1{31}")  # longer than the longest token of its kind

_LETTERS = {" ": "space", "\n": "newline", "\t": "tab"}
_RUNS = {
    f"{name} x {n}": f"x{letter * n}y" for letter, name in _LETTERS.items() for n in range(1, 65)
}
_OTHER_RUNS = {
    f"{name} x {n}, {place}": text.format(letter * n)
    for letter, name in _LETTERS.items()
    for n in (33, 100, 1000)
    for place, text in {"alone": "{}", "before a word": "{}the", "at the end": "the{}"}.items()
}

HARD = {
    **_RUNS,
    **_OTHER_RUNS,
    "empty": "",
    "space": " ",
    "spaces": "a  b   c    d" + " " * 40 + "e ",
    "leading": "  two before",
    "mixed": (" " * 40 + "\n" + "\t" * 35 + "\n" * 33 + " \t \n") * 3 + "x",
    "margins": "\n".join(" " * n + "*" + " " * (70 - n) + "*" for n in range(0, 70, 7)),
    "space_sign": "a▁b ▁▁ c",
    "space_sign_and_space": "a▁▁ the ▁▁▁the ▁the" + "▁" * 40 + " x",
    "newlines": "a\nb\n\nc" + "\n" * 45 + "d\r\n\r\ne" + "\r\n" * 40,
    "tabs": "a\tb\t\t c" + "\t" * 40 + "\t d",
    "other_spaces": "\u00a0" * 40 + "\u2003" * 40 + "\v\f" * 20,
    "rules": "-" * 100 + "=" * 100 + "#" * 100 + "*" * 33 + "_" * 65 + "." * 47,
    "emoji": "👩‍👩‍👧‍👦 🇩🇪 ☺️ 🙂🙃",
    "scripts": "Ünïcödé 日本語のテキスト العربية עברית हिन्दी ไทย Ελληνικά",
    "accents": "e\u0301 \u00e9 \ufb01 \uff21\u00a0\u2003\u200b|\ufeff",
    "byte_fallback": "\U0010ffff \ue000 \x00 \x07 \x1b[0m",
    "byte_token": "<0x0A><0x41>",
    "html": "<table><tr><td>a</td></tr></table> <h1>b</h1><div class='x'></div><bbox>",
    "bos": "<bos>",
    "bos_inside": "a<bos>b <bos> <bos><bos>",
    "turn": "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    "control": "<pad><eos><unk><mask>[multimodal]<unused7><unused6241><start_of_image>",
    "almost": "<start_of_turn <bos > < bos> [multimodal <unused99999>",
    "code": "def f(x):\n    return {x: [1, 2.5e-3]}  # 100%\n\n\nif x == 'main':\n\tf(0)",
    "deep_code": "".join(" " * 4 * n + f"if x{n}:\n" for n in range(12)) + " " * 48 + "pass",
    "digits": "1234567890 3.14159 2024-01-01 $1,000,000.00",
    "long_word": "abcdefgh" * 500,
    "long": "The quick brown fox jumps over the lazy dog. " * 100,
}

WORDS = {  # what byte-level tokenizers of different families cut in different places
    "contractions": "I'M you'll WE'VE it's 'tis 'S don't can't THEY'RE o'clock",
    "digits": "123456789 1 12 123 1234 x1y22z333 3.14",
    "other_digits": "١٢٣٤ ½ ² Ⅷ 五 १२३",
    "newlines": "a\r\n\r\n b \n\n\n c\t\t\n",
    "spaces": "  \n \n\n  x   y  ",
    "composed": "e\u0301 \u1e9b\u0323 가 \u1112\u1161\u11ab \u212b",
    "wide": "\u3000全角 space\u00a0no\u2028line",
    "control": "\x00\x01\x7f\x85\u200b\ufeff",
    "emoji": "🤦🏽‍♂️ ok👍🏿!",
    "punctuation": "!!! -- (a) [b] {c} #d @e /f/ ... «g»\n;\n",
    "special": "<|endoftext|>x<|im_start|>user\nhi<|im_end|> <s>a</s> <unk>",
}


def sample(prompts) -> list[str]:
    """Returns nine prompts, evenly spaced, and every one with a long run of white space."""
    spaced = [prompts[i] for i in np.linspace(0, len(prompts) - 1, PER_TASK).astype(int)]
    return spaced + [prompt for prompt in prompts if _RUN.search(prompt)]


def digest(rows) -> str:
    """Returns a hash of the ids of each prompt, in order; BOS is not among them."""
    found = hashlib.sha256()
    for row in rows:
        found.update(len(row).to_bytes(8, "little") + np.asarray(row, "<i4").tobytes())
    return found.hexdigest()[:16]


def merges_digest(tokenizer) -> str:
    """Returns a hash of a byte-pair tokenizer's merges, in order."""
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return hashlib.sha256(json.dumps(merges).encode()).hexdigest()[:16]


def words(tokenizer, text) -> list[str]:
    """Returns the words into which a tokenizer cuts a text before it merges their parts."""
    text = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def words_digest(tokenizer, texts) -> str:
    """Returns a hash of the words of texts, in order."""
    found = json.dumps([words(tokenizer, text) for text in texts])
    return hashlib.sha256(found.encode()).hexdigest()[:16]
