"""Which plans a job could run under, how long a step of each takes, and which of them fit."""

from .book import Book
from .search import Plan, Rejected, Search, pareto, search
from .space import Choices, Layout, layouts

__all__ = ["Book", "Choices", "Layout", "Plan", "Rejected", "Search", "layouts", "pareto", "search"]
