"""Other tools' training settings as scenarios: Megatron-LM arguments, torchtitan TOML."""

from euston.scenario.importers.base import Imported, Machines
from euston.scenario.importers.megatron import from_megatron
from euston.scenario.importers.torchtitan import from_torchtitan

__all__ = ["Imported", "Machines", "from_megatron", "from_torchtitan"]
