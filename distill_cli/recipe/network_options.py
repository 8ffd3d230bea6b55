"""The options of how a network learns: which parts stay, and on how many levels its weights lie."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from distill_cli.errors import UsageError
from distill_cli.recipe.fields import MODEL, ClassNames, option
from distill_cli.recipe.left_out import LeavesOut

# A number is a name too, of a module of a sequence.
PartNames = ClassNames
QuantizerName = Literal["wrpn", "ternary", "lsq", "binary"]
FEW = (2, 3, 4, 8)
# The bits that a quantizer has; of others there are several.
ONE_CHOICE = {"ternary": 2, "binary": 1}


def _of(*choices: int) -> AfterValidator:
    """A check that a number is one of these; text is turned into a number before it."""

    def check(value: int) -> int:
        if value not in choices:
            *others, last = map(str, choices)
            raise ValueError(f"must be {', '.join(others)} or {last}")
        return value

    return AfterValidator(check)


WeightBits = Annotated[int, _of(1, *FEW)]
FewBits = Annotated[int, _of(*FEW)]


class NetworkOptions(LeavesOut):
    """The options of every verb that trains, by which parts of its network stay, and how small it is."""

    freeze: PartNames | None = option(
        None,
        "Parts of the network that do not learn, as conv1,layer1: their weights and the statistics of "
        "their batch norm stay; backbone: all but the classifier.",
        MODEL,
        unwritten=True,
    )
    weight_bits: WeightBits | None = option(
        None,
        "Bits of each weight, in all layers but the first and the last; they learn behind their levels "
        "in fp32.",
        MODEL,
        unwritten=True,
    )
    act_bits: FewBits | None = option(
        None, "Bits of what goes into these layers. Default: full.", MODEL, unwritten=True
    )
    quantizer: QuantizerName | None = option(
        None,
        "lsq (learnt steps), wrpn (of [-1, 1]), ternary (2 bits), binary (1 bit). Default: lsq, of one bit "
        "binary.",
        MODEL,
        unwritten=True,
    )
    quantize_all: bool = option(
        False, "Quantise the first and the last layer too.", MODEL, unwritten=True
    )
    last_layer_bits: FewBits | None = option(
        None, "Bits of the last layer's weights, by lsq.", MODEL, unwritten=True
    )


def quantizer_of(recipe: NetworkOptions) -> tuple[QuantizerName, int | None] | None:
    """The quantizer and the bits of weights that are meant; None where nothing is quantised.

    Raises:
        UsageError: They mean nothing together.
    """
    name, bits = recipe.quantizer, recipe.weight_bits
    if name is None and bits is None and recipe.act_bits is None:
        for flag, given in (
            ("--quantize-all", recipe.quantize_all),
            ("--last-layer-bits", recipe.last_layer_bits is not None),
        ):
            if given:
                raise UsageError(
                    f"{flag} goes with --weight-bits", hint="Give --weight-bits 4, or leave it out"
                )
        return None
    if name is None:
        name = "binary" if bits == 1 else "lsq"
    only = ONE_CHOICE.get(name)
    if bits is None:
        bits = only
    if only is not None and bits != only:
        raise UsageError(
            f"--quantizer {name} and --weight-bits {bits}: its weights have {only} "
            f"{'bit' if only == 1 else 'bits'}",
            hint="Leave --weight-bits out, or choose wrpn or lsq",
        )
    if only is None and bits == 1:
        raise UsageError(
            f"--quantizer {name} and --weight-bits 1: of one bit weights are binary",
            hint=f"Choose --quantizer binary, or of {', '.join(map(str, FEW))} bits",
        )
    if bits is None and recipe.act_bits is None:
        raise UsageError(
            f"--quantizer {name} does not say how many bits",
            hint="Give --weight-bits or --act-bits",
        )
    return name, bits
