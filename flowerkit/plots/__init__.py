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
        "off_screen": "style",
        "save_figure": "style",
        "missing_letters_in_one_line": "style",
        "COMPARED": "curves",
        "NUM_STYLES": "curves",
        "cut_diverged": "curves",
        "find_phases": "curves",
        "plot_comparison": "curves",
        "plot_curves": "curves",
        "plot_lr_finder": "curves",
        "plot_rates": "curves",
        "plot_schedule": "curves",
        "describe_counts": "classes",
        "plot_calibration": "classes",
        "plot_confusion": "classes",
        "plot_histogram": "classes",
        "highlight_cam": "images",
        "plot_batch": "images",
        "plot_cam": "images",
        "plot_images": "images",
        "plot_mistakes": "images",
        "plot_results": "images",
    },
)
