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
        "after_resizing": "classifier",
        "build_classifier": "classifier",
        "split_classifier": "classifier",
        "save_classifier": "classifier",
        "load_model": "classifier",
        "check_reload": "outputs",
        "find_chain": "outputs",
        "forward_of": "outputs",
        "prepare_outputs": "outputs",
        "stream_outputs": "outputs",
        "check_network": "backbones",
        "list_backbones": "backbones",
        "tabulate_backbones": "backbones",
        "find_cached_weights": "backbones",
        "is_weights_of": "backbones",
        "fixed_input_size": "backbones",
        "weights_folder": "backbones",
        "copy_state": "foreign",
        "freeze_backbone": "freezing",
        "choose_trainable": "freezing",
        "depth_of": "freezing",
        "walk_layers": "freezing",
        "random_layers": "freezing",
        "AccumulatingModel": "accumulation",
        "activation_bytes": "memory",
        "compute_cam": "cam",
        "find_map_size": "cam",
        "build_cam": "cam",
    },
)
