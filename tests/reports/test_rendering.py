import base64
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import flowerkit
from flowerkit.reports import render

ROOT = Path(flowerkit.__file__).parent
PAGE = "page.html.j2"


def test_every_value_is_escaped_and_cleaned():
    page = render(PAGE, title="<script>장미</script> \ud83c\x00", version='"1"')
    assert "<title>&lt;script&gt;장미&lt;/script&gt; \\ud83c?</title>" in page
    assert "flowerkit &#34;1&#34;." in page


def test_the_page_forbids_what_is_not_in_the_file():
    page = render(PAGE, title="", version="1")
    script = page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    assert f'http-equiv="Content-Security-Policy" content="{policy}"' in page
    assert "prefers-color-scheme: dark" in page  # the stylesheet is inside
    assert script == (ROOT / "reports" / "templates" / "page.js").read_text(encoding="utf-8")


def test_templates_are_found_inside_a_zip(tmp_path):
    """As a package travels to Kaggle, and as zipimport takes it."""
    archive = tmp_path / "flowerkit.zip"
    with zipfile.ZipFile(archive, "w") as files:
        for path in ROOT.rglob("*"):
            if path.suffix in (".py", ".j2", ".css", ".js"):
                files.write(path, path.relative_to(ROOT.parent))
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from flowerkit.reports import rendering\n"
        "page = rendering.render('page.html.j2', title='<zip>', version='1')\n"
        "print(json.dumps([rendering.__file__, page]))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, archive], capture_output=True, text=True, check=True
    )
    file, page = json.loads(done.stdout)
    assert file.startswith(str(archive))
    assert page == render(PAGE, title="<zip>", version="1")
