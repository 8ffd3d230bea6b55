"""Where the ranks of one command meet, and the words that they leave there."""

from distill_cli.meeting.store import (
    ANSWER,
    bounded,
    is_open,
    kept_by_launcher,
    meet,
    of_launch,
    part,
    part_of,
    store_at,
)
from distill_cli.meeting.words import (
    claim,
    host_of,
    in_words,
    last_word,
    leave_word,
    line_of,
    word_of_lost,
)

__all__ = [
    "ANSWER",
    "bounded",
    "claim",
    "host_of",
    "in_words",
    "is_open",
    "kept_by_launcher",
    "last_word",
    "leave_word",
    "line_of",
    "meet",
    "of_launch",
    "part",
    "part_of",
    "store_at",
    "word_of_lost",
]
