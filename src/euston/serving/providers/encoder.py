"""Seconds of a vision encoder: images of one size as a pool's steps, or beside the prompts they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from euston.devices import GPU
from euston.errors import ConfigError
from euston.models import Transformer
from euston.serving.providers.software import EngineSoftware
from euston.serving.step_time import StepTime, dense

if TYPE_CHECKING:
    from euston.catalog import Accelerator

__all__ = ["encoder_seconds", "encoder_step_time", "image_tokens"]

MOST_IMAGES = 64
"""Of one step of an encoder pool that its price is worked out for; more go on at the last one's pace."""


def image_tokens(model: Transformer, pixels: int) -> int:
    """Tokens of the decoder that an image of ``pixels`` x ``pixels`` becomes.

    Raises
    ------
    ConfigError
        For a model without a vision encoder, an image smaller than one of its tokens.
    """
    if model.vision is None:
        raise ConfigError(f"{model.name} has no vision encoder; its requests can have no images")
    tokens = model.vision.tokens(model.vision.patches(pixels, pixels))
    if tokens < 1:
        raise ConfigError(f"an image of {pixels} pixels is smaller than one token of {model.name}")
    return tokens


def encoder_seconds(
    model: Transformer, accelerator: Accelerator, pixels: int, images: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Seconds of encoder and projector for so many images of ``pixels`` x ``pixels`` at once, float64[N]."""
    image_tokens(model, pixels)
    assert model.vision is not None
    patches = model.vision.patches(pixels, pixels)
    gpu = GPU(accelerator, launch_floor=1e-6)
    found = []
    for count in images.tolist():
        ops = [op for op in model.encoder_operators(count, patches) if op.phase == "forward"]
        found.append(sum(price.seconds for price in gpu.price_many(ops)))
    return np.array(found, np.float64)


def encoder_step_time(
    model: Transformer, accelerator: Accelerator, pixels: int, software: EngineSoftware
) -> StepTime:
    """Steps of a pool of role "encode", by the decoder's tokens that its images become.

    Raises
    ------
    ConfigError
        See `image_tokens`.
    """
    each = image_tokens(model, pixels)
    count = np.unique(np.round(2.0 ** np.arange(0, np.log2(MOST_IMAGES) + 0.5, 0.5))).astype(np.int64)
    seconds = encoder_seconds(model, accelerator, pixels, count)
    # part of an image in a step is never less than one image's work spread over its tokens
    tokens = dense(np.concatenate([[0], count * each]), np.concatenate([[0.0], seconds]))
    return StepTime(
        tokens=tokens, cpu_fixed=software.cpu_fixed, cpu_sequence=software.cpu_sequence,
        provenance=("vision encoder by formulas and tables of products",),
    )  # fmt: skip
