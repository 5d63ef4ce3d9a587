"""`tf.train.Example`, the message inside a record, by the protobuf library alone.

Its descriptors are in a pool of their own, because TensorFlow registers the same names in protobuf's
common pool. They are those of
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto
"""

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass


def _message(name: str, *fields: FieldDescriptorProto, **options) -> DescriptorProto:
    return DescriptorProto(name=name, field=fields, **options)


def _field(number: int, name: str, kind: str, **options) -> FieldDescriptorProto:
    """`kind` is a type of a .proto file, or a message; "repeated " may be in front."""
    *repeated, kind = kind.split()
    label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
    if kind[0].isupper():
        options |= {"type": FieldDescriptorProto.TYPE_MESSAGE, "type_name": f".tensorflow.{kind}"}
    else:
        options["type"] = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    return FieldDescriptorProto(number=number, name=name, label=label, **options)


_POOL = DescriptorPool()
_POOL.Add(
    FileDescriptorProto(
        name="flowerkit/example.proto",
        package="tensorflow",
        syntax="proto3",
        message_type=[
            _message("BytesList", _field(1, "value", "repeated bytes")),
            _message("FloatList", _field(1, "value", "repeated float")),
            _message("Int64List", _field(1, "value", "repeated int64")),
            _message(
                "Feature",
                _field(1, "bytes_list", "BytesList", oneof_index=0),
                _field(2, "float_list", "FloatList", oneof_index=0),
                _field(3, "int64_list", "Int64List", oneof_index=0),
                oneof_decl=[{"name": "kind"}],
            ),
            _message(
                "Features",
                _field(1, "feature", "repeated Features.FeatureEntry"),
                nested_type=[
                    _message(
                        "FeatureEntry",
                        _field(1, "key", "string"),
                        _field(2, "value", "Feature"),
                        options={"map_entry": True},
                    )
                ],
            ),
            _message("Example", _field(1, "features", "Features")),
        ],
    )
)
Example = GetMessageClass(_POOL.FindMessageTypeByName("tensorflow.Example"))
