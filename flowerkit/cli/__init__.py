"""The command line: options, and what each command prints. All work is done in the folders below.

A module for each group of `flowerkit --help`; each command NAME has `add_NAME_options(parser)` and,
below it, `run_NAME(args, echo, progress) -> exit status`. Exit status: 0 done, 1 the work failed or
problems were found, 2 wrong usage. Only `__main__` prints and exits.

parser    the table of commands (add a command here); argparse with "Did you mean ...?"
arguments which kind of path an argument is, and the command that was meant
options   options that several commands share, and an option for each field of a plan
terminal  progress bars, log lines, the device's line, and silent frameworks
start     demo, draw
doctor    doctor
ahead     its --compile-for: a plan's steps compiled for a TPU that is not here
data      convert, check-data
train     train, contest, lr-find, study, compare, models
look      predict, check, report
closing   the last lines of train, demo and lr-find
use       export, classify, serve
kaggle    bundle, push, watch, pull, submit
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__, {"parser": "COMMANDS WrongUsage load_function parse", "terminal": "start_log"}
)
