"""Pictures of what other folders computed. No computing of scores, no files but `save_figure`'s.

A plot takes the data and, where it draws into one place, `ax`; it returns Axes and never calls show().
Without `ax` a figure is made with pyplot, so that a notebook shows it. Colours are Okabe and Ito's,
which colour-blind people distinguish, and never the only difference.

    style    colours, fonts for class names, new figures, saving
    curves   by epoch or learning rate: schedules, histories, several experiments, the finder
    classes  by class: image counts, confusion matrix, calibration
    images   grids of photos: batches, predictions, mistakes, class activation maps
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "style": "off_screen save_figure",
        "curves": "COMPARED NUM_STYLES cut_diverged find_phases plot_comparison plot_curves "
        "plot_lr_finder plot_rates plot_schedule",
        "classes": "describe_counts plot_calibration plot_confusion plot_histogram",
        "images": "highlight_cam plot_batch plot_cam plot_images plot_mistakes plot_results",
    },
)
