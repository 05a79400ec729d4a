"""Reports: a `Result` as a page to read, a trace to scroll through, or JSON, chosen by the file's suffix."""

from euston.report._write import SUFFIXES, check_path, write

__all__ = ["SUFFIXES", "check_path", "write"]
