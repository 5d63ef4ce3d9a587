"""A trained model in use: exported to a file, opened, classifying photos, served as a page.

Nothing here trains or changes a model.

    card        what a model file says about its classes, its input and its origin (`ModelCard`)
    formats     Keras, SavedModel, ONNX, LiteRT: how each is recognised, written and opened
    keras_file  `.keras` files that other versions of Keras load
    exports     `export_model`, which checks each export against the run's model
    classifier  `load_classifier`, and `Classifier.predict` for photos
    serving     the page of `flowerkit serve`
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "FORMATS": "formats",
        "detect_format": "formats",
        "export_model": "exports",
        "Classifier": "classifier",
        "load_classifier": "classifier",
        "list_files": "classifier",
        "build_page": "serving",
        "serve": "serving",
        "import_gradio": "serving",
    },
)
