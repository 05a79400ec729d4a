"""The model's shape in Megatron-LM arguments, with the defaults of its arguments.py."""

from __future__ import annotations

import re
from typing import Any

from euston.errors import ConfigError
from euston.scenario.importers.arguments import Arguments

__all__ = ["model_of"]

_VOCABULARIES = {"GPT2BPETokenizer": 50257, "BertWordPieceLowerCase": 30522}
"""Tokenizers whose vocabulary is part of their name."""
MAX_LAYERS = 4096


def model_of(args: Arguments, tensor: int) -> dict[str, Any]:
    """The `model` section of a job.

    Raises
    ------
    ConfigError
        Naming line and flag.
    """
    layers = args.whole("num-layers", args.maybe("encoder-num-layers"))
    hidden, heads = args.whole("hidden-size"), args.whole("num-attention-heads")
    if layers > MAX_LAYERS:
        raise args.wrong("num-layers", f"{layers} is out of range; at most {MAX_LAYERS}")
    swiglu = args.has("swiglu")
    # arguments.py: 4 h, and under SwiGLU two thirds of it in multiples of 64
    ffn = args.maybe("ffn-hidden-size") or (int((4 * hidden * 2 / 3) / 64) * 64 if swiglu else 4 * hidden)
    model: dict[str, Any] = {
        "name": "megatron",
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": _groups(args, heads),
        "ffn": ffn,
        "vocab": _vocabulary(args, tensor),
        "gated": swiglu,
        "norm": "rmsnorm"
        if args.text("normalization", "LayerNorm", ("LayerNorm", "RMSNorm")) == "RMSNorm"
        else "layernorm",
        "biases": not args.has("disable-bias-linear"),
        "tied": not args.has("untie-embeddings-and-output-weights"),
        "qk_norm": args.has("qk-layernorm"),
    }
    if args.has("add-qkv-bias") and not model["biases"]:
        model["qkv_biases"] = True
    model |= _positions(args)
    latent = args.has("multi-latent-attention")
    if latent:
        model["mla"] = {
            "query_rank": args.whole("q-lora-rank", 0, least=0),
            "kv_rank": args.whole("kv-lora-rank", 32),
            "nope_dim": args.whole("qk-head-dim", 128),
            "rope_dim": args.whole("qk-pos-emb-head-dim", 64, least=0),
            "value_dim": args.whole("v-head-dim", 128),
        }
    size = args.maybe("kv-channels")
    if not latent:
        if size is None and hidden % heads:
            raise args.wrong("num-attention-heads", f"{heads} does not divide --hidden-size {hidden}")
        model["head_dim"] = size or hidden // heads
    return model | _experts(args, layers, ffn) | _extras(args)


def _groups(args: Arguments, heads: int) -> int:
    groups = args.maybe("num-query-groups")
    if not args.has("group-query-attention"):
        if groups not in (None, 1, heads):
            args.warn("num-query-groups", "has no effect without --group-query-attention")
        return heads
    groups = groups or 1
    if heads % groups:
        raise args.wrong("num-query-groups", f"{groups} does not divide --num-attention-heads {heads}")
    return groups


def _vocabulary(args: Arguments, tensor: int) -> int:
    """The vocabulary as it is padded: to a multiple of --make-vocab-size-divisible-by x tensor ranks."""
    padded = args.maybe("padded-vocab-size")
    size = args.maybe("vocab-size")
    tokenizer = args.text("tokenizer-type")
    multiple = args.whole("make-vocab-size-divisible-by", 128)
    if padded:
        return padded
    if size is None:
        size = _VOCABULARIES.get(tokenizer)
        if size is None:
            raise ConfigError(
                f"{args.source}: --vocab-size is missing, and the tokenizer's files are not read; add it"
            )
    step = multiple * tensor
    return -(-size // step) * step


def _positions(args: Arguments) -> dict[str, Any]:
    kinds = ("learned_absolute", "rope", "mrope", "yarn", "relative", "none")
    kind = args.text("position-embedding-type", "learned_absolute", kinds)
    args.has("no-position-embedding")
    longest = args.maybe("max-position-embeddings")
    if args.has("use-rotary-position-embeddings") or kind in ("rope", "mrope", "yarn"):
        return {"positions": "rotary"}
    if kind in ("none", "relative") or args.has("no-position-embedding"):
        return {"positions": "none"}
    if longest is None:
        raise ConfigError(f"{args.source}: --max-position-embeddings is missing; learned positions need it")
    return {"positions": "learned", "max_positions": longest}


def _experts(args: Arguments, layers: int, ffn: int) -> dict[str, Any]:
    experts = args.maybe("num-experts")
    top = args.whole("moe-router-topk", 2)
    width = args.maybe("moe-ffn-hidden-size")
    shared = args.maybe("moe-shared-expert-intermediate-size", least=0)
    frequency = args.text("moe-layer-freq", "1")
    bias, gate = args.has("moe-router-enable-expert-bias"), args.has("moe-shared-expert-gate")
    overlap = args.has("moe-shared-expert-overlap")
    if experts is None:
        return {}
    if overlap:
        args.warn("moe-shared-expert-overlap", "shared experts run in their turn here")
    if top > experts:
        raise args.wrong("moe-router-topk", f"{top} is more than --num-experts {experts}")
    section: dict[str, Any] = {"experts": experts, "top_k": top, "ffn": width or ffn}
    if shared:
        section |= {"shared_experts": 1, "shared_ffn": shared}
    section |= {"router_bias": bias} if bias else {}
    section |= {"shared_gate": gate} if gate and shared else {}
    pattern = _pattern(args, frequency, layers)
    dense = pattern.index(1) if 1 in pattern else layers
    found: dict[str, Any] = {"moe": section}
    if all(pattern[dense:]):
        section["first_dense_layers"] = dense
    else:
        found["ffns"] = "".join("FE"[kind] for kind in pattern)
    return found


def _pattern(args: Arguments, text: str, layers: int) -> list[int]:
    """--moe-layer-freq: every n-th layer, or a list such as ``([0]*3+[1]*58)``; 1 stands for experts."""
    plain = re.sub(r"[\s()]", "", text)
    if re.fullmatch(r"[1-9]\d{0,3}", plain):
        every = int(plain)
        return [int(i % every == 0) for i in range(layers)]
    found: list[int] = []
    part = r"\[[01](?:,[01])*\](?:\*\d{1,4})?"
    if not re.fullmatch(rf"{part}(?:\+{part})*", plain) or len(plain) > 10_000:
        raise args.wrong("moe-layer-freq", f"{text[:60]!r} is no number and no list like ([0]*3+[1]*58)")
    for piece in plain.split("+"):
        kinds, _, times = piece.partition("]*")
        found += [int(kind) for kind in re.findall("[01]", kinds)] * int(times or 1)
        if len(found) > layers:
            break
    if len(found) != layers:
        raise args.wrong("moe-layer-freq", f"stands for other than the {layers} layers of --num-layers")
    return found


def _extras(args: Arguments) -> dict[str, Any]:
    found: dict[str, Any] = {}
    prediction = args.whole("mtp-num-layers", 0, least=0)
    if prediction:
        found["prediction_layers"] = prediction
    window = args.texts("window-size")
    skip = args.text("window-attn-skip-freq")
    if window:
        match = re.search(r"-?\d{1,9}", " ".join(window))
        if match is None:
            raise args.wrong("window-size", f"{' '.join(window)[:60]!r} holds no number")
        if int(match[0]) >= 0:
            every = int(skip) if re.fullmatch(r"[2-9]|[1-9]\d{1,3}", skip) else 0
            # transformer_config.py: with a frequency n, every n-th layer sees everything
            found |= {"window": int(match[0]) + 1, "mixers": "S" * (every - 1) + "A" if every else "S"}
    return found
