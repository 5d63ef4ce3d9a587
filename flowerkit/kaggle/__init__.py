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
        "check_bundle": "bundle",
        "write_bundle": "metadata",
        "lint": "metadata",
        "KernelMetadata": "metadata",
        "KaggleError": "client",
        "KernelRun": "client",
        "sign_in": "client",
        "RunFailed": "push",
        "push_notebook": "push",
        "watch_run": "push",
        "LICENCES": "publication",
        "Publication": "publication",
        "publish": "publication",
        "pull_outputs": "results",
        "check_csv": "results",
        "resolve_version": "results",
        "submit": "results",
        "wait_for_score": "results",
    },
)
