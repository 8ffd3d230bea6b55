"""Files that are whole or absent: the only room that writes, and locks that admit one writer.

See `writing` for what is written through, and `named` for paths that a person named.
"""

from distill_cli.files.content import csv_text, sha256, write_json, write_text
from distill_cli.files.hand import by_every_rank, leave_to_others, writes
from distill_cli.files.locks import LOCK, is_written, one_writer
from distill_cli.files.named import check_writable, named_file, real_path
from distill_cli.files.writing import (
    BAD_PATH,
    DISK_FULL,
    TEMPORARY,
    append,
    below,
    created,
    cut,
    linked,
    move,
    remove,
    remove_temporaries,
    write_atomically,
    write_bytes,
)

__all__ = [
    "BAD_PATH",
    "DISK_FULL",
    "LOCK",
    "TEMPORARY",
    "append",
    "below",
    "by_every_rank",
    "check_writable",
    "created",
    "csv_text",
    "cut",
    "is_written",
    "leave_to_others",
    "linked",
    "move",
    "named_file",
    "one_writer",
    "real_path",
    "remove",
    "remove_temporaries",
    "sha256",
    "write_atomically",
    "write_bytes",
    "write_json",
    "write_text",
    "writes",
]
