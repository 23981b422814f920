"""Which token of a prompt its vector is read from, as one text.

last            the last token, the study's rule
-2              the last but one, and so on
mean            the mean of all tokens but BOS
after:TEXT      the token with which TEXT ends, where it stands last in the prompt
"""

import re

LAST, MEAN, ALL = "last", "mean", "all"
_AFTER = "after:"
LONGEST = 1000  # characters of a position
PATTERN = r"\A[^\x00-\x08\x0b-\x1f\x7f]*\Z"  # no control characters but tabs and line ends
_BACK = re.compile(r"-([1-9][0-9]{0,3})")


def parse(text: str) -> str:
    """Returns the one form of a position: `-1` is `last`.

    Raises:
      ValueError: it is none.
    """
    if text in (LAST, MEAN):
        return text
    if text.startswith(_AFTER) and text != _AFTER:
        if len(text) > LONGEST or not re.match(PATTERN, text):
            raise ValueError(
                f"The position {text!r:.100} will not do: TEXT has at most {LONGEST:,} characters, "
                "and of control characters line ends (\\n) and tabs alone."
            )
        return text
    if found := _BACK.fullmatch(text):
        return LAST if found[1] == "1" else text
    raise ValueError(
        f"{text!r:.100} is no position: give last, mean, a number from the end such as -2, or "
        "after:TEXT for the token with which TEXT ends."
    )


def back(position: str) -> int | None:
    """Returns which token it is, counted from the end, 1 for the last; None if that depends."""
    if position == LAST:
        return 1
    found = _BACK.fullmatch(position)
    return int(found[1]) if found else None


def marker(position: str) -> str | None:
    """Returns the text after which is read, None where there is none."""
    return position.removeprefix(_AFTER) if position.startswith(_AFTER) else None
