"""A page on this machine that names the flower on a photo, and shows why.

A photo that is dropped, chosen, pasted or taken is sent to the page's own server, which reads it in
memory and keeps nothing of it. The page loads nothing from another host.
"""

import contextlib
import io
import json
import logging
import urllib.parse

import numpy as np
from PIL import Image

from flowerkit.console import Progress
from flowerkit.data import decode_jpeg
from flowerkit.deploy.card import ACCEPT, check_similar
from flowerkit.deploy.classifier import Classifier
from flowerkit.deploy.local_server import Reply, find_reply
from flowerkit.deploy.run_photos import find_examples
from flowerkit.photos import UnreadablePhoto, read_photo
from flowerkit.reports import render, to_data_uri

SHOWN_PX = 720
NUM_EXAMPLES = 6

_log = logging.getLogger("flowerkit")


class ClassifierPage:
    """The page of a classifier: calling it with (method, path, body) gives the reply, or None.

    It shows the `top` most probable classes, "none of these classes" by `accept`, see
    `Classifier.predict`; with a Keras model that has a feature map the class activation map; with a run
    whose data are there six photos of val to try, and the `similar` training photos nearest to a photo,
    whose features are computed here. What is not there is left out, and logged.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        top: int = 3,
        accept: float = ACCEPT,
        similar: int = 0,
        progress: Progress | None = None,
    ):
        classifier.card.threshold(accept)  # refuses what is no fraction
        check_similar(similar)
        self.classifier, self.top, self.accept, self.similar = classifier, top, accept, similar
        self.find_cams = None
        self.examples = []
        if classifier.model is not None:
            from flowerkit.models import build_cam

            with contextlib.suppress(ValueError):  # a dense network has no feature map
                self.find_cams = build_cam(classifier.model, batch_size=1)
        try:
            self.examples = find_examples(classifier.run_folder, NUM_EXAMPLES)
            if similar:
                classifier.find_similar_photos(progress)
        except (FileNotFoundError, ValueError) as error:
            self.similar = 0
            _log.warning(f"the page shows no photos of the run's data: {error}")

    def __call__(self, method: str, path: str, body: bytes) -> Reply | None:
        path = urllib.parse.urlsplit(path).path
        if (method, path) == ("POST", "/classify"):
            reply = json.dumps(self.classify(body), ensure_ascii=False)
            return Reply(reply.encode(), "application/json")
        return find_reply(path, "serve", self.render) if method == "GET" else None

    def render(self) -> str:
        """The page before the first photo, HTML."""
        card = self.classifier.card
        return render(
            "serve.html.j2",
            name=self.classifier.path.resolve().name,
            card=card,
            examples=[
                (photo.class_name, to_data_uri(encode(photo.pixels))) for photo in self.examples
            ],
            has_map=self.find_cams is not None,
        )

    def classify(self, data: bytes) -> dict:
        """What the page shows of a photo, a file's bytes: values for JSON, pictures as data URIs."""
        card = self.classifier.card
        try:
            shown = read_photo(data, max(SHOWN_PX, card.image_size), card.resize).jpeg
            square = decode_jpeg(read_photo(data, card.image_size, card.resize).jpeg)
        except UnreadablePhoto as error:
            return {"problem": f"This file cannot be read: {error}. Try another photo."}
        (prediction,) = self.classifier.predict(square, accept=self.accept, similar=self.similar)
        return {
            "answer": prediction.name,
            "isKnown": prediction.is_known,
            "classes": prediction.classes[: self.top],
            "photo": to_data_uri(shown),
            "map": self._draw_map(square, prediction),
            "similar": [
                {
                    "name": photo.name,
                    "className": photo.class_name,
                    "similarity": photo.similarity,
                    "photo": to_data_uri(encode(photo.pixels)),
                }
                for photo in prediction.similar
            ],
        }

    def _draw_map(self, square: np.ndarray, prediction) -> str | None:
        """Black over what does not speak for the most probable class, to be laid over the photo."""
        if self.find_cams is None:
            return None
        best = self.classifier.class_names.index(prediction.classes[0][0])
        cam = self.find_cams(square[None], np.array([best]))[0]
        dark = np.zeros((*cam.shape, 2), "uint8")
        dark[..., 1] = np.round(255 * (1 - cam))
        return to_data_uri(encode(dark, "png"), "png")


def encode(pixels: np.ndarray, kind: str = "jpeg") -> bytes:
    """A picture, JPEG of RGB (h, w, 3) or PNG of grey and opacity (h, w, 2), of uint8."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=90)
    return file.getvalue()
