"""Networks: pixels 0..255 in, probabilities out. Nothing here trains, reads data or draws.

classifier  build, save and load a classifier: backbone + head with input scaling inside
outputs     what a model gives for batch after batch, compiled once; the check of a saved copy
backbones   backbones.csv; Keras Applications, .keras files, tiny and dense networks; weights
hub         networks of KerasHub by name: hub:PRESET
foreign     networks that a user brings: looked at, and made anew in the present precision
heads       the layers from features to probabilities: the DenseNet121 head of the notebook, four others
freezing    which layers are trainable, and how deep each is (for lower rates towards the first)
accumulation a training step in parts: gradients of one part of the images after the other
memory      how much memory a training step needs for each image, estimated
cam         class activation maps: the parts of a picture that speak for a class
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "classifier": "after_resizing build_classifier split_classifier save_classifier load_model",
        "outputs": "check_reload find_chain forward_of prepare_outputs stream_outputs",
        "backbones": "check_network list_backbones tabulate_backbones "
        "find_cached_weights is_weights_of fixed_input_size takes_sizes weights_folder",
        "foreign": "copy_state",
        "freezing": "freeze_backbone choose_trainable depth_of walk_layers random_layers",
        "accumulation": "AccumulatingModel",
        "memory": "activation_bytes",
        "cam": "compute_cam find_map_size build_cam",
    },
)
