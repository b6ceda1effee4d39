"""The part of Triton's ModelConfig that we write, as a protobuf schema, so that a wrong field or type is found without a server.
Taught in lesson 06.
"""

from functools import cache

# message -> field -> type; "*" repeated, "{}" map from string. Names and enums as in Triton's model_config.proto.
MESSAGES = {
    "ModelConfig": {
        "name": "string",
        "platform": "string",
        "backend": "string",
        "max_batch_size": "int32",
        "input": "*ModelInput",
        "output": "*ModelOutput",
        "instance_group": "*ModelInstanceGroup",
        "dynamic_batching": "ModelDynamicBatching",
        "ensemble_scheduling": "ModelEnsembling",
        "optimization": "ModelOptimizationPolicy",
    },
    "ModelInput": {"name": "string", "data_type": "DataType", "dims": "*int64"},
    "ModelOutput": {"name": "string", "data_type": "DataType", "dims": "*int64"},
    "ModelInstanceGroup": {"count": "int32", "kind": "Kind"},
    "ModelDynamicBatching": {"preferred_batch_size": "*int32", "max_queue_delay_microseconds": "uint64"},
    "ModelEnsembling": {"step": "*Step"},
    "Step": {"model_name": "string", "model_version": "int64", "input_map": "{}string", "output_map": "{}string"},
    "ModelOptimizationPolicy": {"execution_accelerators": "ExecutionAccelerators"},
    "ExecutionAccelerators": {"gpu_execution_accelerator": "*Accelerator"},
    "Accelerator": {"name": "string", "parameters": "{}string"},
}
ENUMS = {
    "DataType": ["TYPE_INVALID", "TYPE_BOOL", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_STRING"],
    "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU"],
}


def parse(text: str):
    """A ModelConfig message from a ``config.pbtxt``.

    Raises
    ------
    ValueError
        If a field is unknown or has a value of another type; the message names the line.

    >>> parse('name: "retriever" max_batch_size: 64').max_batch_size
    64
    """
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, _message_class()())
    except text_format.ParseError as problem:
        raise ValueError(f"config.pbtxt: {problem}") from problem


def type_name(tensor) -> str:
    """The name of a tensor's data type, e.g. "TYPE_FP32"."""
    return ENUMS["DataType"][tensor.data_type]


@cache
def _message_class():
    """ModelConfig, built from the tables above; numbers on the wire play no part in the text format."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="triton_part", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            _add_field(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("triton_part.ModelConfig"))


def _add_field(message, name: str, number: int, kind: str) -> None:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

    repeated = kind.startswith(("*", "{}"))
    field = message.field.add(
        name=name, number=number, label=Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
    )
    if kind.startswith("{}"):
        entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        for place, key in enumerate(("key", "value"), 1):
            entry.field.add(name=key, number=place, label=Field.LABEL_OPTIONAL, type=Field.TYPE_STRING)
        field.type, field.type_name = Field.TYPE_MESSAGE, f".triton_part.{message.name}.{entry.name}"
        return
    kind = kind.lstrip("*")
    scalar = {
        "string": Field.TYPE_STRING,
        "int32": Field.TYPE_INT32,
        "int64": Field.TYPE_INT64,
        "uint64": Field.TYPE_UINT64,
    }
    if kind in scalar:
        field.type = scalar[kind]
    else:
        field.type = Field.TYPE_ENUM if kind in ENUMS else Field.TYPE_MESSAGE
        field.type_name = f".triton_part.{kind}"
