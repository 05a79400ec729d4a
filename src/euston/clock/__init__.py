"""The one clock: programs executed together with the fluid network, components, processes, the conductor."""

from euston.clock.conductor import Component, Conductor, Message
from euston.clock.events import CapacityEvent, Event, RouteEvent, SpeedEvent
from euston.clock.execution import Execution
from euston.clock.executor import Executor, execute
from euston.clock.process import Compute, Join, Processes, Receive, Send, Wait
from euston.clock.program import Choices, Kind, Program, ProgramBuilder, QueueTable, TransferTable

__all__ = [
    "CapacityEvent",
    "Choices",
    "Component",
    "Compute",
    "Conductor",
    "Event",
    "Execution",
    "Executor",
    "Join",
    "Kind",
    "Message",
    "Processes",
    "Program",
    "ProgramBuilder",
    "QueueTable",
    "Receive",
    "RouteEvent",
    "Send",
    "SpeedEvent",
    "TransferTable",
    "Wait",
    "execute",
]
