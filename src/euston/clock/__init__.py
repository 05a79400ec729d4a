"""The one clock: programs executed together with the fluid network, components, processes, the conductor."""

from euston.clock.conductor import Component, Conductor, Message
from euston.clock.executor import CapacityEvent, Execution, Executor, SpeedEvent, execute
from euston.clock.process import Compute, Join, Processes, Receive, Send, Wait
from euston.clock.program import Kind, Program, ProgramBuilder, TransferTable

__all__ = [
    "CapacityEvent",
    "Component",
    "Compute",
    "Conductor",
    "Execution",
    "Executor",
    "Join",
    "Kind",
    "Message",
    "Processes",
    "Program",
    "ProgramBuilder",
    "Receive",
    "Send",
    "SpeedEvent",
    "TransferTable",
    "Wait",
    "execute",
]
