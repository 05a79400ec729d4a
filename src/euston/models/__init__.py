"""Transformers as arithmetic: parameters, FLOPs, operators and bytes, before any device or network.

`transformer("llama3-405b")` takes a model from the catalogue, `from_hf_config(path)` one from a Hugging Face
configuration, `Transformer(...)` one you describe. A model answers `parameters`, `flops_per_token`,
`operators`, `optimizer_operators`, `activation_bytes` and `rank_parameters`; `state_bytes` gives what
training keeps per parameter.
"""

from ._kinds import LayerKind
from ._parameters import RankShare
from ._settings import RECOMPUTE_MODULES
from ._transformer import MLA, Mamba, MoE, Transformer, VisionEncoder
from .balance import Balance
from .hf import from_hf_config
from .images import ImageMix
from .memory import StateBytes, state_bytes
from .operator import Operator
from .zoo import check, transformer

__all__ = [
    "RECOMPUTE_MODULES",
    "MLA",
    "Balance",
    "ImageMix",
    "LayerKind",
    "Mamba",
    "MoE",
    "Operator",
    "RankShare",
    "StateBytes",
    "Transformer",
    "VisionEncoder",
    "check",
    "from_hf_config",
    "state_bytes",
    "transformer",
]
