"""Compression: gradients and model updates in fewer bytes, in packets that decode alone, with known errors.

One `Codec` protocol serves the lossy all-reduce, Photon's federated updates and the simulator (which asks
only for `bytes` and `expected_vnmse`). ``CODECS.get("eden")(bits=4)`` makes a codec.
"""

from euston.compression.base import (
    Codec,
    NonFinite,
    OverflowRisk,
    PacketsLost,
    Payload,
    SizeMismatch,
    StepKey,
    Summable,
)
from euston.compression.erasure import Fec, choose_parity, residual_loss
from euston.compression.error_feedback import ErrorFeedback
from euston.compression.hadamard import hadamard
from euston.compression.layout import Layout
from euston.registry import Registry

CODECS = Registry(
    "compression",
    {
        "none": "euston.compression.none:Plain",
        "fp16": "euston.compression.half:Fp16",
        "bf16": "euston.compression.half:Bf16",
        "fp8": "euston.compression.minifloat:Fp8",
        "fp4": "euston.compression.minifloat:Fp4",
        "int8": "euston.compression.integer:Int8",
        "int4": "euston.compression.integer:Int4",
        "top_k": "euston.compression.top_k:TopK",
        "rand_k": "euston.compression.rand_k:RandK",
        "power_sgd": "euston.compression.power_sgd:PowerSgd",
        "drive": "euston.compression.drive:Drive",
        "eden": "euston.compression.eden:Eden",
        "thc": "euston.compression.thc:Thc",
        "quic_fl": "euston.compression.quic_fl:QuicFl",
    },
    kind="codec",
    extras={"torch": "lossy", "zfec": "lossy", "raptorq": "lossy"},
)

__all__ = [
    "CODECS", "Codec", "ErrorFeedback", "Fec", "Layout", "NonFinite", "OverflowRisk", "PacketsLost",
    "Payload", "SizeMismatch", "StepKey", "Summable", "choose_parity", "hadamard", "residual_loss",
]  # fmt: skip
