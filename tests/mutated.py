"""Files that are valid but for a few changes, and the readers that are given them.

The mutations are drawn by a seed and know the formats: numbers and words are replaced by such as break
readers, and what a format has of lengths and checksums is made right again, so that the change is seen.
"""

from __future__ import annotations

import gzip
import io
import random
import re
import resource
import struct
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from distill_cli.errors import DistillError
from distill_cli.training import checkpoint
from distill_cli.training.seal import seal

# Bounds of one input: seconds of CPU time, and bytes of memory beyond what the process had.
SECONDS, MEMORY = 2.0, 1 << 30
CODES = (2, 3)

NUMBERS = (
    *("0", "-1", "1", "2", "0.5", "-0.0", "1.5", "1e999", "-1e999", "1e308", "1e-320", "NaN"),
    *("Infinity", ".inf", ".nan", "2147483648", "9223372036854775807", "18446744073709551616"),
    *("1" + "0" * 40, "9" * 400, "9" * 5000, "0x" + "f" * 5000, "1:30:00", "0b1", "0x_", "010"),
    *("true", "null", '"a"', "[]", "{}", "[1]", "2024-01-32", "2024-01-01", "12:99:99"),
)
WORDS = (
    *(
        "",
        "a",
        "\\ud800",
        "\\u0000",
        "x" * 5000,
        "../../../etc/passwd",
        "/",
        ".",
        "..",
        "*a",
        "&a x",
    ),
    *("<<", "<<: 1", "=", "!!int ''", "!!float x", "!!timestamp x", "!!binary x", "!!set {a, a}"),
    *(
        "!!python/object:os.system x",
        "\x1b[31m",
        "\x00",
        "\r\n",
        "é",
        "\ufeff",
        "\u2028",
        "%s",
        "{0}",
    ),
    *(
        "true",
        "null",
        "1",
        "-1",
        "NaN",
        "fp16",
        "sigmoid",
        "topk:0",
        "\t",
        "- - - -",
        "? :",
        "'",
        '"',
    ),
)
NUMBER = re.compile(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?")
WORD = re.compile(rb"[A-Za-z_][\w./-]*")
NESTED = (b"[" * 3000, b"{a: " * 600, b'{"a":' * 1200, b"[[" * 70 + b"]]" * 70)


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes:
        name: For messages, and for the names of the corpus.
        make: Fills an empty folder with valid files.
        files: Those of them that are mutated.
        read: Reads what lies in the folder, of which the named file is mutated; raises nothing but
            DistillError.
    """

    name: str
    make: Callable[[Path], object]
    files: tuple[str, ...]
    read: Callable[[Path, str], object]


@dataclass(frozen=True)
class Fault:
    """What a reader did wrong with an input."""

    reader: str
    file: str
    content: bytes
    what: str


def mutated(content: bytes, draw: random.Random, file: str) -> bytes:
    """A few changes of a file's content."""
    if file.endswith(".gz") and draw.random() < 0.7:
        inner = mutated(gzip.decompress(content), draw, file.removesuffix(".gz"))
        return gzip.compress(inner, compresslevel=1, mtime=0)
    if file.endswith(".safetensors") and draw.random() < 0.8:
        length = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + length]
        # Half of the time the positions of the tensors alone, few words beside our metadata.
        cut = header.find(b'"},"') + 1 if draw.random() < 0.5 else 0
        header = header[:cut] + _changed(header[cut:], draw)
        return len(header).to_bytes(8, "little") + header + content[8 + length :]
    if file.endswith(".tar") and draw.random() < 0.7:
        return _tar_header_changed(content, draw)
    if file.endswith(".pt") and draw.random() < 0.9:
        return _pickle_changed(content, draw)
    content = _changed(content, draw)
    return _png_sums(content) if file.endswith(".png") and draw.random() < 0.7 else content


def _changed(content: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = draw.choice(CHANGES)(content, draw)
    return content


def _flip(content: bytes, draw: random.Random) -> bytes:
    if not content:
        return b"\xff"
    changed = bytearray(content)
    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _bytes(content: bytes, draw: random.Random) -> bytes:
    at, size = draw.randrange(len(content) + 1), draw.choice((1, 2, 4, 8))
    extreme = draw.choice((b"\x00", b"\xff", b"\x7f", b"\x80"))
    return content[:at] + extreme * size + content[at + size :]


def _truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _cut(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    return content[:at] + content[at + draw.randrange(1, 40) :]


def _repeat(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    part = content[at : at + draw.randrange(1, 80)]
    return content[:at] + part * draw.choice((2, 2, 3, 50)) + content[at:]


def _number(content: bytes, draw: random.Random) -> bytes:
    return _replace(NUMBER, content, draw, draw.choice(NUMBERS).encode())


def _word(content: bytes, draw: random.Random) -> bytes:
    return _replace(WORD, content, draw, draw.choice(WORDS).encode())


def _number_for_word(content: bytes, draw: random.Random) -> bytes:
    return _replace(WORD, content, draw, draw.choice(NUMBERS).encode())


def _nested(content: bytes, draw: random.Random) -> bytes:
    return _replace(NUMBER, content, draw, draw.choice(NESTED))


def _swap(content: bytes, draw: random.Random) -> bytes:
    tokens = [*WORD.finditer(content), *NUMBER.finditer(content)]
    if len(tokens) < 2:
        return content
    return _replace(WORD, content, draw, draw.choice(tokens)[0])


def _replace(pattern: re.Pattern[bytes], content: bytes, draw: random.Random, by: bytes) -> bytes:
    tokens = list(pattern.finditer(content))
    if not tokens:
        return _flip(content, draw)
    token = draw.choice(tokens)
    return content[: token.start()] + by + content[token.end() :]


CHANGES = (
    *(_flip, _bytes, _truncate, _cut, _repeat, _number, _number, _word, _word),
    *(_number_for_word, _nested, _swap),
)


def _tar_header_changed(content: bytes, draw: random.Random) -> bytes:
    """A field of a header of a tar is another, its checksum right again."""
    blocks = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    at = draw.choice(blocks)
    header = bytearray(content[at : at + 512])
    start, stop = draw.choice(
        ((0, 100), (124, 136), (124, 136), (156, 157), (157, 257), (345, 500))
    )
    size = stop - start
    field = draw.choice(
        (
            b"%0*o" % (size - 1, draw.choice((0, 1, 511, 1 << 20, 1 << 32)) % 8 ** (size - 1)),
            b"\x80" + b"\x00" * max(0, size - 9) + (1 << draw.choice((20, 31, 40, 62))).to_bytes(8),
            b"\xff" * size,
            draw.choice(b"0123456789gxLKSVD\x00").to_bytes(1) * 1,
            draw.choice(WORDS).encode(),
        )
    )
    header[start:stop] = field[:size].ljust(size, b"\x00")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header)
    return content[:at] + bytes(header) + content[at + 512 :]


def _pickle_changed(content: bytes, draw: random.Random) -> bytes:
    """The pickle of a checkpoint is another, the archive's sums right, and ours right or taken away."""
    changed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as archive,
        zipfile.ZipFile(changed, "w") as other,
    ):
        for name in archive.namelist():
            part = archive.read(name)
            if name.endswith("data.pkl"):
                part = _flip(part, draw) if draw.random() < 0.4 else _changed(part, draw)
                if draw.random() < 0.5:
                    # Without the key, no sum is asked for; one letter keeps the pickle whole.
                    part = part.replace(checkpoint.SEALED.encode(), b"checkvvv")
            other.writestr(name, part)
    if checkpoint.SEALED.encode() in changed.getvalue():
        seal(changed)
    return changed.getvalue()


def _png_sums(content: bytes) -> bytes:
    """The checksums of a PNG's chunks are right again."""
    at, parts = 8, [content[:8]]
    while at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        body = content[at + 4 : at + 8 + length]
        parts.append(content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(parts) + content[at:]


def inputs(reader: Reader, folder: Path, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Mutated files of a reader: name and content."""
    draw = random.Random(f"{reader.name} {seed}")
    valid = {file: (folder / file).read_bytes() for file in reader.files}
    for number in range(count):
        file = reader.files[number % len(reader.files)]
        yield file, mutated(valid[file], draw, file)


def fault_of(reader: Reader, folder: Path, file: str, content: bytes) -> str | None:
    """What the reader does wrong with a file in the place of a valid one; None where it does not."""
    path = folder / file
    valid = path.read_bytes()
    _write(path, content)
    before, started = _peak(), time.process_time()
    try:
        reader.read(folder, file)
    except DistillError as error:
        if error.exit_code not in CODES:
            return f"exit code {error.exit_code}: {error}"
        if "Traceback" in str(error) or " object at 0x" in str(error):
            return f"a message for programmers: {error}"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(last.filename).name}: {str(error)[:200]}"
    finally:
        _write(path, valid)
    took, grown = time.process_time() - started, _peak() - before
    if took > SECONDS:
        return f"{took:.1f} s of CPU time"
    return f"{grown >> 20} MB of memory" if grown > MEMORY else None


def _write(path: Path, content: bytes) -> None:
    # A new file: some systems flush one to disk that is cut to nothing and written again.
    path.unlink()
    path.write_bytes(content)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def faults(reader: Reader, folder: Path, count: int, seed: int = 0) -> list[Fault]:
    """What a reader does wrong with so many mutated files.

    Args:
        reader: The reader.
        folder: An empty folder.
        count: Number of files.
        seed: Of the mutations.
    """
    reader.make(folder)
    for file in reader.files:
        reader.read(folder, file)
    found = []
    for file, content in inputs(reader, folder, count, seed):
        what = fault_of(reader, folder, file, content)
        if what is not None:
            found.append(Fault(reader.name, file, content, what))
    return found
