"""The wire schema of Chakra traces as protobuf messages, built at run time from its field numbers."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from euston.errors import MissingExtra

__all__ = ["SCALARS", "Messages", "messages"]

_PACKAGE = "ChakraProtoMsg"

SCALARS = (
    "double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64",
    "sfixed32", "sfixed64", "bool", "string", "bytes",
)  # fmt: skip
"""Types of an attribute's value; ``<type>_val`` has field 3 + 2 i, ``<type>_list`` the one after."""


class Messages(NamedTuple):
    """Classes of the messages."""

    metadata: Any
    node: Any
    attribute: Any
    decode_error: type[Exception]


@cache
def messages() -> Messages:
    """The message classes.

    Raises
    ------
    MissingExtra
        protobuf is not installed.
    """
    try:
        descriptor_pb2, descriptor_pool, message, message_factory = (
            import_module(f"google.protobuf.{name}")
            for name in ("descriptor_pb2", "descriptor_pool", "message", "message_factory")
        )
    except ImportError:
        raise MissingExtra("protobuf", "traces") from None

    field_type: Any = descriptor_pb2.FieldDescriptorProto
    kinds = {name: getattr(field_type, f"TYPE_{name.upper()}") for name in SCALARS}
    file: Any = descriptor_pb2.FileDescriptorProto(
        name="euston/chakra_et_def.proto", package=_PACKAGE, syntax="proto3"
    )

    def add(into: Any, name: str, number: int, kind: Any, repeated: bool = False) -> Any:
        label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
        one = into.field.add(name=name, number=number, label=label)
        if isinstance(kind, str):
            one.type, one.type_name = field_type.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
        else:
            one.type = kind
        return one

    attribute = file.message_type.add(name="AttributeProto")
    add(attribute, "name", 1, kinds["string"])
    add(attribute, "doc_string", 2, kinds["string"])
    attribute.oneof_decl.add(name="value")
    for i, name in enumerate(SCALARS):
        add(attribute, f"{name}_val", 3 + 2 * i, kinds[name]).oneof_index = 0
        values = file.message_type.add(name=f"{name.capitalize()}List")
        add(values, "values", 1, kinds[name], repeated=True)
        add(attribute, f"{name}_list", 4 + 2 * i, values.name).oneof_index = 0
    metadata = file.message_type.add(name="GlobalMetadata")
    add(metadata, "version", 1, kinds["string"])
    add(metadata, "attr", 2, "AttributeProto", repeated=True)
    info = file.message_type.add(name="IOInfo")
    for number, name in enumerate(("values", "shapes", "types"), 1):
        add(info, name, number, kinds["string"])
    node = file.message_type.add(name="Node")
    add(node, "id", 1, kinds["uint64"])
    add(node, "name", 2, kinds["string"])
    # an open enum travels as an int32: types of newer schemas survive
    add(node, "type", 3, kinds["int32"])
    add(node, "ctrl_deps", 4, kinds["uint64"], repeated=True)
    add(node, "data_deps", 5, kinds["uint64"], repeated=True)
    add(node, "start_time_micros", 6, kinds["uint64"])
    add(node, "duration_micros", 7, kinds["uint64"])
    add(node, "inputs", 8, "IOInfo")
    add(node, "outputs", 9, "IOInfo")
    add(node, "attr", 10, "AttributeProto", repeated=True)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)

    def made(name: str) -> Any:
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))

    return Messages(made("GlobalMetadata"), made("Node"), made("AttributeProto"), message.DecodeError)
