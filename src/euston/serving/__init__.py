"""Serving: clusters of inference engines in time."""

from euston.serving.requests import Requests

__all__ = ["Requests"]
