"""Several runs: studies train them, a comparison says which differences are more than chance.

Scores, intervals and single runs come from below: `metrics`, `reports.SavedRun`.

    studies         the studies by name: which plans, how many seeds
    runs            a study -> finished run folders, one for each plan and seed
    comparison      run folders -> experiments, best first, and whether chance explains how scores differ
    tables          a comparison as markdown and csv
    comparison_page a comparison as files: compare.html, .md, .csv and .png
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "STUDIES": "studies",
        "spread_over_seeds": "studies",
        "run_study": "runs",
        "compare_runs": "comparison",
        "to_markdown": "tables",
        "write_comparison": "comparison_page",
    },
)
