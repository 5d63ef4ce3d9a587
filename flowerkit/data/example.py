"""`tf.train.Example`, the message inside a record, by the protobuf library alone.

Its descriptors are in a pool of their own, because TensorFlow registers the same names in protobuf's
common pool. They are those of
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto
"""

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.text_format import Parse

_MANY, _ONE = "label: LABEL_REPEATED", "label: LABEL_OPTIONAL"
_TO = "type: TYPE_MESSAGE type_name: '.tensorflow."
_FILE = f"""
name: 'flowerkit/example.proto' package: 'tensorflow' syntax: 'proto3'
message_type {{ name: 'BytesList' field {{ name: 'value' number: 1 {_MANY} type: TYPE_BYTES }} }}
message_type {{ name: 'FloatList' field {{ name: 'value' number: 1 {_MANY} type: TYPE_FLOAT }} }}
message_type {{ name: 'Int64List' field {{ name: 'value' number: 1 {_MANY} type: TYPE_INT64 }} }}
message_type {{ name: 'Feature' oneof_decl {{ name: 'kind' }}
  field {{ name: 'bytes_list' number: 1 {_ONE} {_TO}BytesList' oneof_index: 0 }}
  field {{ name: 'float_list' number: 2 {_ONE} {_TO}FloatList' oneof_index: 0 }}
  field {{ name: 'int64_list' number: 3 {_ONE} {_TO}Int64List' oneof_index: 0 }} }}
message_type {{ name: 'Features'
  field {{ name: 'feature' number: 1 {_MANY} {_TO}Features.FeatureEntry' }}
  nested_type {{ name: 'FeatureEntry' options {{ map_entry: true }}
    field {{ name: 'key' number: 1 {_ONE} type: TYPE_STRING }}
    field {{ name: 'value' number: 2 {_ONE} {_TO}Feature' }} }} }}
message_type {{ name: 'Example' field {{ name: 'features' number: 1 {_ONE} {_TO}Features' }} }}
"""
_POOL = DescriptorPool()
_POOL.Add(Parse(_FILE, FileDescriptorProto()))
Example = GetMessageClass(_POOL.FindMessageTypeByName("tensorflow.Example"))
