"""The way to Kaggle and back: push the notebook, watch its run, submit its csv, publish a model.

Nothing here trains, and nothing below `cli` imports this folder. The package `kaggle` is imported when a
client signs in, a framework when a run is exported.

    bundle     the notebook to push, with the package in a cell; is the notebook stale?
    metadata   kernel-metadata.json, and the lint of all that a push sends
    client     the signed-in client: time limits, retries, errors with remedies; names of runs
    push       push the notebook, follow its run and its log
    publication  a run as a Kaggle Model, weights as a data set
    results    fetch a run's outputs, check a csv, submit it, wait for the score
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "bundle": "check_bundle",
        "metadata": "write_bundle lint KernelMetadata",
        "client": "KaggleError KernelRun sign_in",
        "push": "RunFailed push_notebook watch_run",
        "publication": "Publication publish",
        "results": "pull_outputs check_csv resolve_version submit wait_for_score",
    },
)
