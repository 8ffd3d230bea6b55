"""Networks: timm's, torchvision's and our small ones; each owns its normalisation.

Importing this package registers our own networks in timm's registry.
"""

from distill_cli.models import fitnets as fitnets
from distill_cli.models import gated as gated
from distill_cli.models import quantised as quantised
from distill_cli.models import small as small
from distill_cli.models.artifact import (
    config_of,
    load_model,
    model_bytes,
    network_fingerprint,
    save_model,
    save_temperature,
)
from distill_cli.models.network import InputSpec, Network
from distill_cli.models.packed_folder import PackedModel, few_bits_of, save_packed
from distill_cli.models.small import suggested
from distill_cli.models.zoo import (
    create_network,
    names,
    pretrained_teacher,
    resolve,
    weights_at_hand,
)

__all__ = [
    "InputSpec",
    "Network",
    "PackedModel",
    "config_of",
    "create_network",
    "few_bits_of",
    "load_model",
    "model_bytes",
    "names",
    "network_fingerprint",
    "pretrained_teacher",
    "resolve",
    "save_model",
    "save_packed",
    "save_temperature",
    "suggested",
    "weights_at_hand",
]
