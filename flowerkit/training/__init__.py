"""Training: a plan and data in, a trained classifier and a run folder out. `trainer.train` is the story.

    plan            every choice of a run, validated; the monitors; the plans that ship; what "auto" is
    phases          the head alone, then the network; the time they have
    trainer         `train`, `fine_tune`, `fit_one_cycle`: the story of a run from top to bottom
    step            the compiled model of a phase, and what a batch of it is: pixels or features
    callbacks       what happens in an epoch and at its end: log and stop
    early_stopping  the rule by which patience ends a phase
    validation      scores raw and averaged weights with statistics of their own; keeps the best
    history         history.csv: a row an epoch; the best by the plan's monitor
    run_folder      every file of a run, each with the one function that reads it
    saved_run       a finished run folder, read whole: plan, history, predictions, and scores from them
    verdict         is the score good, what held it back, what to try next: sentences
    fitting         what the plan leaves "auto" and the clock decides: size, rate, epochs
    lr_finder       the learning-rate range test
    optimizers      which weights decay, which learn more slowly, the average of the weights
    losses          the loss, class weights, label smoothing

Pictures and pages of a run are made in `plots` and `reports`, not here.
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "plan": "FINE_TUNE PLANS RAMP settle TrainingPlan change_plan check_is_plan load_plan",
        "run_folder": "Environment RunFolder TrainedOn describe_difference",
        "history": "History",
        "lr_finder": "LRFinderResult lr_find",
        "fitting": "NotEnoughTime Pace measure_pace",
        "phases": "Phase plan_phases",
        "saved_run": "SavedRun",
        "trainer": "TrainingResult fine_tune fit_one_cycle train",
        "verdict": "judge",
        "step": "build_model list_programs",
    },
)
