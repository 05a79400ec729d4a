"""Reports: a `Result` as a page to read, a trace to scroll through, or JSON, chosen by the file's suffix."""

from euston.report._words import cell, percent, scalar_name
from euston.report._words import label as kind_label
from euston.report._words import scalar as scalar_text
from euston.report._write import SUFFIXES, check_path, write

__all__ = ["SUFFIXES", "cell", "check_path", "kind_label", "percent", "scalar_name", "scalar_text", "write"]
