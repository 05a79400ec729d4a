"""What requests have besides their tokens: images, classes, what is believed of their answers' length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from euston.errors import ConfigError
from euston.seeds import stream
from euston.serving.requests import Requests
from euston.serving.workloads.generate import at_least

__all__ = ["with_classes", "with_image_names", "with_images", "with_predictions"]


def with_images(
    requests: Requests, mean: float, tokens_per_image: int, *, most: int = 0, seed: int = 0
) -> Requests:
    """Requests with images before their text: Poisson many, each of so many tokens of the prompt.

    ``most``: of a request, 0: any. Names of blocks drop: images come first.
    """
    at_least("images", mean, 0)
    at_least("tokens_per_image", tokens_per_image, 1)
    images = stream(seed, "images").poisson(mean, len(requests))
    if most:
        images = np.minimum(images, most)
    tokens = (requests.in_tok + images * tokens_per_image).astype(np.int32)
    return replace(
        requests, n_images=images.astype(np.int16), in_tok=tokens, named_tok=tokens,
        block_ids=np.zeros(0, np.int64), blocks_ptr=np.zeros(len(requests) + 1, np.int64), block_size=0,
    )  # fmt: skip


def with_image_names(requests: Requests, distinct: int, alpha: float = 0.0, *, seed: int = 0) -> Requests:
    """The same with names of their images: ``distinct`` ones with popularity 1 / rank^alpha.

    A request's are drawn again until all of them differ.

    Raises
    ------
    ConfigError
        When a request has more images than there are.
    """
    images = requests.n_images.astype(np.int64)
    if images.max(initial=0) > distinct:
        most = int(images.max())
        raise ConfigError(f"a request has {most} images; `distinct` must be at least as many")
    rng = stream(seed, "names of images")
    weight = np.arange(1, distinct + 1, dtype=np.float64) ** -alpha
    upto = np.cumsum(weight / weight.sum())[:-1]
    owner = np.repeat(np.arange(images.size), images)
    names = np.zeros(owner.size, np.int64)
    again = np.ones(images.size, bool)
    for _ in range(32):
        mine = again[owner]
        names[mine] = np.searchsorted(upto, rng.random(int(mine.sum())), side="right")
        order = np.lexsort((names, owner))
        same = (np.diff(names[order]) == 0) & (np.diff(owner[order]) == 0)
        again[:] = False
        again[owner[order[:-1][same]]] = True
        if not again.any():
            break
    ends = np.cumsum(images)
    for i in np.flatnonzero(again):  # requests with a large part of all images
        drawn = rng.choice(distinct, int(images[i]), replace=False, p=weight / weight.sum())
        names[ends[i] - images[i] : ends[i]] = drawn
    return replace(requests, image_ids=names)


def with_classes(
    requests: Requests,
    shares: Sequence[float],
    priority: ArrayLike = 0.0,
    deadline_s: ArrayLike = np.inf,
    *,
    seed: int = 0,
) -> Requests:
    """The same in classes, drawn by session: all turns of a conversation are of one class.

    Parameters
    ----------
    shares : sequence of float
        How common each class is, any scale; at most 256.
    priority, deadline_s : float or float64[classes]
        Of each class; see `Requests`.

    Raises
    ------
    ConfigError
        For shares that are no weights.
    """
    weight = np.asarray(shares, np.float64)
    if not 1 <= weight.size <= 256 or not (
        np.isfinite(weight).all() and (weight >= 0).all() and weight.any()
    ):
        raise ConfigError("`shares`: must be 1 to 256 numbers of 0 or more, not all 0")
    _, session = np.unique(requests.session, return_inverse=True)
    upto = np.cumsum(weight / weight.sum())[:-1]
    drawn = np.searchsorted(upto, stream(seed, "classes").random(session.max(initial=-1) + 1), side="right")
    klass = drawn[session]
    each = [np.broadcast_to(np.asarray(of, np.float64), weight.shape)[klass] for of in (priority, deadline_s)]
    return replace(requests, klass=klass.astype(np.uint8), priority=each[0], deadline_s=each[1])


def with_predictions(requests: Requests, spread: float, *, seed: int = 0) -> Requests:
    """The same with believed lengths of answers off by a factor: lognormal about the true ones.

    ``spread``: standard deviation of its logarithm; 0: as they are.
    """
    at_least("spread", spread, 0)
    factor = np.exp(spread * stream(seed, "predicted answers").standard_normal(len(requests)))
    return replace(requests, predicted_out=requests.out_tok.astype(np.float64) * factor)
