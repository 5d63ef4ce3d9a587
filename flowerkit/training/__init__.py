"""Training: a plan and data in, a trained classifier and a run folder out. `trainer.train` is the story.

plan           every choice of a run, validated; the plans by name
phases         a plan as stretches of epochs: the head alone, then more of the network
trainer        `train`, `fine_tune`, `fit_one_cycle`: the story of a run from top to bottom
step           what a batch is, and the compiled model that takes it
callbacks      what happens in an epoch and at its end: validate, log, stop
early_stopping when patience ends a phase
checkpoints    which weights are kept
history        history.csv: a row an epoch, the best one
run_folder     every file of a run, and the one function that reads it
features       backbone outputs computed once, for a head that learns from them
lr_finder      the learning-rate range test
optimizers     which weights decay, which learn more slowly, the average of the weights
losses         the loss, class weights, label smoothing

Pictures and pages of a run are made in `plots` and `reports`, not here.
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "COMPETITION": "plan",
        "PLANS": "plan",
        "Environment": "run_folder",
        "History": "history",
        "LRFinderResult": "lr_finder",
        "Phase": "phases",
        "RunFolder": "run_folder",
        "RunResult": "run_folder",
        "TrainingPlan": "plan",
        "TrainingResult": "trainer",
        "change_plan": "plan",
        "compute_features": "features",
        "describe_difference": "run_folder",
        "fine_tune": "trainer",
        "fit_one_cycle": "trainer",
        "load_plan": "plan",
        "lr_find": "lr_finder",
        "plan_phases": "phases",
        "train": "trainer",
    },
)
