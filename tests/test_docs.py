"""README and docs/: each block runs as it stands, in order, on what the blocks before it made.

What a page says needs more than a checkout ("These need your Kaggle account:", `<your-name>`), and the
page of `serve`, which runs until Ctrl-C, is parsed. Where ImageNet weights would be downloaded,
`--plan smoke` is added. backbones.md and several-hosts.md need networks and hosts of your own: only
their links are checked.
"""

import ast
import itertools
import logging
import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

import flowerkit
from flowerkit.__main__ import main
from flowerkit.cli import parse

ROOT = Path(__file__).parent.parent
README, KOREAN = ROOT / "README.md", ROOT / "README.ko.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
SUBJECTS = ["callbacks", "compare", "kaggle", "measured", "photos", "speed", "transfer-learning"]
_NEEDS_MORE = re.compile(r"\b(These|They|It|This) needs? ")
_PLACEHOLDER = re.compile(r"<[\w-]+>")


class Block(NamedTuple):
    """A block of a page: `lead` is the text between it and the block or heading before it."""

    page: str
    lead: str
    language: str
    text: str

    @property
    def needs_more(self) -> bool:
        """Whether the page says that a checkout alone cannot run it."""
        return bool(_NEEDS_MORE.search(self.lead))

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a ```sh block."""
        lines = self.text.splitlines() if self.language == "sh" else ()
        parts = [part for line in lines for part in line.split(" && ")]
        return [words for part in parts if (words := shlex.split(part, comments=True))]


def read_blocks(file):
    blocks, lead, lines = [], [], iter(file.read_text(encoding="utf-8").splitlines(keepends=True))
    for line in lines:
        if line.startswith("```"):
            text = "".join(itertools.takewhile(lambda inner: inner != "```\n", lines))
            blocks.append(Block(file.name, "".join(lead), line[3:].strip(), text))
        lead = [] if line.startswith(("```", "#")) else [*lead, line]
    return blocks


PAGES = [README, *(ROOT / f"docs/{subject}.md" for subject in SUBJECTS)]
BLOCKS = [block for file in PAGES for block in read_blocks(file)]


def test_a_block_has_its_own_lead_language_and_commands(tmp_path):
    file = tmp_path / "page.md"
    file.write_text(
        "It needs me.\n# A\n\nIt needs a TPU:\n\n```sh\na && b 'c d'  # e\n```\n```python\nx\n```\n"
    )
    first, second = read_blocks(file)
    assert (first.lead.strip(), first.commands) == ("It needs a TPU:", [["a"], ["b", "c d"]])
    assert first.needs_more
    assert second == ("page.md", "", "python", "x\n")
    assert not second.needs_more


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.page)
def test_commands_and_python_are_right(block):
    assert block.language in ("sh", "python", "text")
    assert not re.search(r"\b(DATA|PHOTOS|PHOTO|OWNER|RUN|DIR|LITE0)\b", block.text)
    if block.language == "python":
        ast.parse(block.text)
        assert set(re.findall(r"\bflowerkit\.(\w+)", block.text)) <= set(flowerkit.__all__)
    for program, *words in block.commands:
        if program == "flowerkit":
            parse(words)
        elif words[:1] and words[0].startswith("benchmarks/"):
            script = (ROOT / words[0]).read_text(encoding="utf-8")
            assert all(word in script for word in words if word.startswith("--"))
        elif program in ("srun", "gcloud"):  # which start ours on several machines
            parse(shlex.split(block.text.partition("flowerkit ")[2].rstrip().rstrip('"')))
        else:
            assert _is_installation(program, words), shlex.join([program, *words])


def _is_installation(program, words):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    if (program, words[:2]) == ("pip", ["install", "-e"]):
        return set(words[2].strip(".[]").split(",")) <= extras.keys()
    return (program, words[:1]) in (
        ("git", ["clone"]),
        ("cd", ["flowerkit"]),
        ("python3", ["-m"]),
        (".", [".venv/bin/activate"]),
    )


def run_blocks(blocks, folder, monkeypatch, *, left_out=()):
    """Run the blocks in `folder`; returns the commands that ran."""
    monkeypatch.chdir(folder)
    train, small = flowerkit.train, flowerkit.TrainingPlan(**_small_plan())
    monkeypatch.setattr(
        flowerkit, "train", lambda data, plan=small, **options: train(data, plan, **options)
    )
    ran = []
    for block in blocks:
        if block.needs_more:
            continue
        if block.language == "python":
            exec(compile(block.text, block.page, "exec"), {"__name__": "__main__"})
        for program, *words in block.commands:
            if program != "flowerkit" or words[0] in ("serve", *left_out):
                continue
            if _PLACEHOLDER.search(shlex.join(words)):
                continue
            words = _without_downloads(words)
            assert main(words) == 0, f"{block.page}: flowerkit {shlex.join(words)}"
            ran.append(words[0])
    return ran


def _small_plan():
    return flowerkit.load_plan("smoke").to_dict() | {"epochs": 1}


def _without_downloads(words):
    args = parse(words)
    own = hasattr(args, "backbone") or hasattr(args, "weights") or getattr(args, "plan", None)
    if args.command not in ("train", "contest", "lr-find") or own or getattr(args, "resume", False):
        return words
    return [*words, "--plan", "smoke", *([] if "--epochs" in words else ["--epochs", "1"])]


@pytest.fixture
def quiet_again():
    """The level of flowerkit's log is as before: a block shows a line for each epoch."""
    log = logging.getLogger("flowerkit")
    before = log.level
    yield
    log.setLevel(before)


@pytest.mark.usefixtures("quiet_again", "no_screen")
def test_the_readmes_blocks_run_in_order(tmp_path, monkeypatch):
    ran = run_blocks(read_blocks(README), tmp_path, monkeypatch, left_out=["demo"])
    assert ran == ["draw", "train", "classify", "draw", "doctor", "train", "check"]
    assert (tmp_path / "runs/python/model.keras").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("quiet_again", "no_screen")
def test_all_blocks_run_in_order(tmp_path, monkeypatch):
    ran = run_blocks(BLOCKS, tmp_path, monkeypatch)
    assert {"demo", "study", "export", "convert", "check-data", "report"} <= set(ran)
    assert {"compare", "predict", "lr-find", "models"} <= set(ran)
    assert (tmp_path / "submission.csv").read_text().startswith("id,label\n")


# Form ---------------------------------------------------------------------------------------------


def test_the_readmes_are_short_and_in_step():
    assert len(README.read_bytes()) <= 8192
    assert len(KOREAN.read_text(encoding="utf-8")) <= 8192
    english, korean = read_blocks(README), read_blocks(KOREAN)
    assert [block[2:] for block in english] == [block[2:] for block in korean]
    for pattern in (r"^#+", r"\]\((?!README)(.*?)\)", r'src="(.*?)"', r"^\| `(.*?)`"):
        first, second = (
            re.findall(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
            for file in (README, KOREAN)
        )
        assert first == second


@pytest.mark.parametrize("file", [README, KOREAN, *DOCS], ids=lambda file: file.name)
def test_links_lead_to_files(file):
    text = file.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)", text) + re.findall(r'src="(.*?)"', text)
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (file.parent / link).exists()] == []


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_page_opens_with_its_command(subject):
    text = (ROOT / f"docs/{subject}.md").read_text(encoding="utf-8")
    assert "```sh\n" in "\n".join(text.splitlines()[:8])


def test_pictures_are_small():
    assert 0 < sum(path.stat().st_size for path in (ROOT / "docs/img").iterdir()) < 150_000
