"""A page on this machine where a user drops a photo and sees its classes and its class activation map.

It is a Gradio page. By default Gradio reports each start to its makers and loads fonts and scripts from
other hosts. Here analytics are off, fonts are the machine's own, and a Content Security Policy forbids
the browser everything that is not on this server. Requests that a page elsewhere makes are refused. A
photo is removed as soon as it was read, and what is shown of it when the page ends.
"""

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flowerkit.deploy.classifier import Classifier

HOST = "127.0.0.1"
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; "
    "frame-ancestors 'none'"
)


def build_page(classifier: Classifier, *, top: int = 3) -> Any:
    """The page for `classifier`, a `gradio.Blocks`, which shows the `top` most probable classes.

    With a Keras model that has a feature map it shows the class activation map too: what does not
    speak for the class is dark. Raises RuntimeError if Gradio does not import.
    """
    gradio = import_gradio()
    find_cams, val_f1 = find_cams_of(classifier), classifier.card.val_f1
    title = f"{len(classifier.class_names)} classes"
    score = "" if val_f1 is None else f"Its macro F1 on val was {val_f1:.3f}. "
    with gradio.Blocks(
        analytics_enabled=False,
        title=f"flowerkit: {title}",
        delete_cache=(60, 60),  # seconds
    ) as page:
        gradio.Markdown(
            f"## {classifier.path.resolve().name}: {title}\n{score}Nothing leaves this machine."
        )
        photo = gradio.File(label="Drop a photo here", elem_id="photo")
        message = gradio.Markdown(elem_id="message")
        with gradio.Row():
            label = gradio.Label(label="Classes", num_top_classes=top, elem_id="classes")
            picture = gradio.Image(
                label="Where it looks" if find_cams else "What it sees",
                elem_id="picture",
                interactive=False,
                buttons=[],
            )

        def show_upload(file: str | None) -> tuple:
            try:
                return show(classifier, find_cams, file)
            finally:
                if file:
                    Path(file).unlink(missing_ok=True)

        photo.change(
            show_upload,
            photo,
            [label, picture, message],
            concurrency_limit=1,  # a LiteRT interpreter runs one call at a time
            api_visibility="private",
        )
    return page


def show(
    classifier: Classifier, find_cams: Callable | None, file: str | None
) -> tuple[dict | None, np.ndarray | None, str]:
    """Probabilities by name, the picture, darkened by the map of `find_cams`, and a message."""
    if not file:
        return None, None, ""
    prediction = classifier.predict(file)[0]
    name = Path(file).name
    if prediction.problem is not None:
        return None, None, f"`{name}` cannot be read: {prediction.problem}. Try another photo."
    picture = classifier.prepare(file)
    if find_cams:
        shown = classifier.class_names.index(prediction.name)
        light = 0.2 + 0.8 * find_cams(picture[None], np.array([shown]))[0]
        picture = (picture * light[..., None]).round().astype("uint8")
    return dict(prediction.classes), picture, f"`{name}`: {prediction.name}"


def find_cams_of(classifier: Classifier) -> Callable | None:
    """The function that maps images to class activation maps; None if the model has none."""
    if classifier.model is None:
        return None
    from flowerkit.models import build_cam

    try:
        return build_cam(classifier.model, batch_size=1)
    except ValueError:  # a dense network has no feature map
        return None


@contextlib.contextmanager
def serve(page: Any, *, port: int | None = None) -> Iterator[str]:
    """Serve `page` on 127.0.0.1 until the block ends; gives its address.

    `port`: None: the first free one from 7860. Raises OSError if it is in use.
    """
    gradio = import_gradio()
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    middleware = [
        # Otherwise a web page elsewhere could reach this one by its own name for 127.0.0.1.
        Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
        Middleware(_OwnPageOnly),
        Middleware(_PolicyMiddleware),
    ]
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        _, url, _ = page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=theme,
            footer_links=[],
            max_file_size="100mb",
            app_kwargs={"middleware": middleware},
        )
    except (OSError, OverflowError) as error:
        ports = port or "from 7860 to 7959"
        raise OSError(f"{HOST} has no free port {ports}. Pass another --port.") from error
    try:
        yield url
    finally:
        page.close(verbose=False)


class _OwnPageOnly:
    """Refuses what another page makes a browser send here: it needs no answer to upload a file."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        headers = dict(scope.get("headers", ()))
        origin = headers.get(b"origin")  # of the page, where a browser sends more than a link
        if origin is None or origin == b"http://" + headers.get(b"host", b""):
            await self.app(scope, receive, send)
            return
        start = {"type": "http.response.start", "status": 403, "headers": []}
        body = {"type": "http.response.body", "body": b"This page takes photos from itself alone."}
        if scope["type"] == "http":
            await send(start)
            await send(body)
        else:
            await send({"type": "websocket.close"})


class _PolicyMiddleware:
    """Adds the policy to every response; plain ASGI, so that streams pass through as they come."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", _POLICY.encode())
                message["headers"] = [*message.get("headers", ()), policy]
            await send(message)

        await self.app(scope, receive, send_with_policy)


@functools.cache
def _make_folder() -> tempfile.TemporaryDirectory:
    """The folder of uploads, which goes when the process ends."""
    return tempfile.TemporaryDirectory(prefix="flowerkit-page-")


def import_gradio() -> Any:
    """The module, with its reports to its makers off. Raises RuntimeError, with the line for pip."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads it at its import
    os.environ["GRADIO_TEMP_DIR"] = _make_folder().name
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError as error:
        raise RuntimeError(
            f"the page needs Gradio, which does not import ({error}). Install it: "
            f"pip install 'gradio>=6,<7'"
        ) from error
    return gradio
