"""The command line: `euston simulate`, `compare`, `net`, `validate`, `schema`, `catalog`, `doctor`,
`reproduce`.

Heavy modules are imported inside the commands, so that `euston --help` answers at once.
"""

from euston.cli._app import app, main

__all__ = ["app", "main"]
