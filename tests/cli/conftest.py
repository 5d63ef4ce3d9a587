"""The command line as it is typed, in this process."""

import json

import pytest
from fake_kaggle import checkout, command, fake, five_images  # noqa: F401 - fixtures

from flowerkit.__main__ import main


@pytest.fixture
def flowerkit(capsys):
    """Runs a command; its exit status, the lines of its output, and its errors."""

    def run(*words):
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as exit_:
            status = exit_.code
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return run


@pytest.fixture
def plan_file(quick_plan, tmp_path):
    file = tmp_path / "quick.json"
    file.write_text(json.dumps(quick_plan.to_dict()))
    return file
