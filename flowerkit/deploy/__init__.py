"""A trained model in use: exported to a file, opened, classifying photos, served as a page.

Nothing here trains or changes a model.

    card          what a model file says of its classes, input, origin and certainty (`ModelCard`)
    formats       Keras, SavedModel, ONNX, LiteRT: how each is recognised, written and opened
    keras_file    `.keras` files that other versions of Keras load
    exports       `export_model`, which checks each export against the run's model
    run_photos    the photos of a run's data: those that look like a photo, examples from val
    classifier    `load_classifier`, and `Classifier.predict` for photos
    serving       the page of `flowerkit serve`
    label_review  labels that are probably wrong, decisions on them, the page of `flowerkit clean`
    local_server  a server for such pages, which only this machine reaches
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "card": "ACCEPT check_accept check_similar",
        "formats": "FORMATS detect_format",
        "exports": "export_model",
        "classifier": "Classifier load_classifier list_files",
        "serving": "ClassifierPage",
        "label_review": "DECISIONS LabelReview ReviewPage",
        "local_server": "serve_locally",
    },
)
