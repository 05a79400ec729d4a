"""Chakra execution traces (MLCommons): a training step out, any trace in, and its replay."""

from euston.training.chakra.export import ExportLimits, export
from euston.training.chakra.fabric_replay import replay_on
from euston.training.chakra.model import CollectiveType, Node, NodeType, Trace
from euston.training.chakra.read import Limits, read_folder, read_trace
from euston.training.chakra.replay import Replay, TraceSet, replay
from euston.training.chakra.write import write_trace

__all__ = [
    "CollectiveType",
    "ExportLimits",
    "Limits",
    "Node",
    "NodeType",
    "Replay",
    "Trace",
    "TraceSet",
    "export",
    "read_folder",
    "read_trace",
    "replay",
    "replay_on",
    "write_trace",
]
