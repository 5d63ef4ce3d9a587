"""Several runs: studies and contests train them, comparisons say which differences are chance.

Scores, intervals and single runs come from below: `metrics`, `reports.SavedRun`.

    studies         the studies by name: which plans, how many seeds
    runs            a study -> finished run folders, one for each plan and seed
    comparison      run folders -> experiments, best first, and whether chance explains how scores differ
    tables          a comparison as markdown and csv
    comparison_page a comparison as files: compare.html, .md, .csv and .png
    contest         folds of several networks, their blend, the best once more on everything, in time
    contest_page    what each step of it brought, and contest.html
    entries         the networks of a contest that fit into its time
    folds           train and val divided into k folds, by class and by pictures that look the same
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    studies="STUDIES spread_over_seeds",
    runs="run_study",
    comparison="compare_runs",
    tables="to_markdown",
    comparison_page="write_comparison",
    contest="Contest run_contest",
    folds="make_folds",
)
