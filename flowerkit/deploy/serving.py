"""A page on this machine where one drops a photo and sees its classes and where the model looks.

It is Gradio's, which by itself tells its makers of each start and takes fonts and scripts from
elsewhere. Here it does neither: analytics are off, fonts are the machine's own, and a Content Security
Policy forbids the browser whatever is not on this server.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flowerkit.deploy.classifier import Classifier, Prediction

HOST = "127.0.0.1"
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; "
    "frame-ancestors 'none'"
)
_KEPT_SECONDS = 3600
_DARKEST = 0.2


def build_page(classifier: Classifier, *, top: int = 3) -> Any:
    """The page for `classifier`, a `gradio.Blocks`, which shows the `top` most probable classes.

    With a Keras model it shows the attention map too: what does not speak for the class is dark.
    Raises RuntimeError where Gradio is not installed or does not import.
    """
    gradio = import_gradio()
    title = f"{len(classifier.class_names)} classes"
    with gradio.Blocks(
        analytics_enabled=False,
        title=f"flowerkit: {title}",
        delete_cache=(_KEPT_SECONDS, _KEPT_SECONDS),
    ) as page:
        gradio.Markdown(f"## {classifier.path.resolve().name}: {title}\n{_describe(classifier)}")
        photo = gradio.File(label="Drop a photo here", elem_id="photo")
        message = gradio.Markdown(elem_id="message")
        with gradio.Row():
            label = gradio.Label(label="Classes", num_top_classes=top, elem_id="classes")
            picture = gradio.Image(
                label="Where it looks" if classifier.model is not None else "What it sees",
                elem_id="picture",
                interactive=False,
                buttons=[],
            )
        photo.change(
            lambda file: show(classifier, file),
            photo,
            [label, picture, message],
            concurrency_limit=1,  # an interpreter of LiteRT does one thing at a time
            api_visibility="private",
        )
    return page


def _describe(classifier: Classifier) -> str:
    score = classifier.card.val_f1
    told = "" if score is None else f"Its macro F1 on val was {score:.3f}. "
    return f"{told}Nothing leaves this machine."


def show(classifier: Classifier, file: str | None) -> tuple[dict | None, np.ndarray | None, str]:
    """Probabilities by name, the picture, and a message, for the photo in `file`."""
    if not file:
        return None, None, ""
    answer = classifier.predict(file)[0]
    name = Path(file).name
    if answer.problem is not None:
        return None, None, f"`{name}` cannot be read: {answer.problem}. Try another photo."
    picture, note = _draw(classifier, file, answer)
    return dict(answer.classes), picture, f"`{name}`: {answer.name}{note}"


def _draw(classifier: Classifier, file: str, answer: Prediction) -> tuple[np.ndarray, str]:
    square = classifier.prepare(file)
    if classifier.model is None:
        return square, ""
    try:
        attention = classifier.find_attention(file, answer.name)
    except ValueError as error:  # a dense network has no feature map
        return square, f" (no map: {error})"
    light = _DARKEST + (1 - _DARKEST) * attention[..., None]
    return (square * light).round().astype("uint8"), ""


def check_port(port: int) -> None:
    """Raise OSError, naming a free port, when something on this machine listens on `port` already."""
    if port > 65535:
        raise ValueError(f"port {port} is none: they go from 1 to 65535.")
    if _is_free(port):
        return
    free = next((other for other in range(port + 1, 65536) if _is_free(other)), None)
    remedy = f" Pass --port {free}, which is free." if free else " Pass another --port."
    raise OSError(f"port {port} of {HOST} is taken, or not yours to use.{remedy}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do, or a page that ended a minute ago would still seem to be there.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def serve(page: Any, *, port: int, max_mb: int = 20) -> Iterator[str]:
    """Serve `page` on 127.0.0.1 until the block ends; gives its address.

    Files over `max_mb` are refused. Raises OSError when the port is taken.
    """
    check_port(port)
    gradio = import_gradio()
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        _, url, _ = page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            theme=theme,
            footer_links=[],
            max_file_size=f"{max_mb}mb",
            app_kwargs={"middleware": _list_middleware()},
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
        )
        yield url
    finally:
        page.close(verbose=False)


def _list_middleware() -> list:
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return [
        # Else a web page elsewhere could reach this one by a name of its own for 127.0.0.1.
        Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
        Middleware(_StayHere),
    ]


class _StayHere:
    """Puts the policy on every answer; plain ASGI, for streams pass through it as they come."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", _POLICY.encode())
                message["headers"] = [*message.get("headers", ()), policy]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def import_gradio() -> Any:
    """The module; nothing is sent to its makers. Raises RuntimeError, with the line for pip."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError as error:
        raise RuntimeError(
            f"the page needs Gradio, which does not import ({error}). Install it: "
            f"pip install 'gradio>=6,<7'"
        ) from error
    return gradio
