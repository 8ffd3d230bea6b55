"""The options of images beside those of the data: without labels, and for teachers' eyes."""

from __future__ import annotations

from typing import Any

from distill_cli.recipe.fields import DATA, TEACHERS, option

UNLABELLED: Any = option(
    None,
    "More images to learn from without labels, from any source that --data can be, or a folder of "
    "images; what labels they have are not looked at, and of splits only train is. Default: those "
    "of the cache that teaches.",
    DATA,
)
TEACHER_DATA: Any = option(
    None,
    "Other images of the same samples, which live teachers see in place of the student's: of another "
    "sensor, or in a better resolution. Matched by sample id (the path below train/ or test/); the size and "
    "colour are the teachers' own. A cache may teach too, where it was made of the very files of --data in "
    "another size or colour.",
    TEACHERS,
)
