"""Where data comes from: every source ends as shards in the competition's layout.

finder       find_data: the competition, shards, a folder of photos, or drawn flowers; test ids
competition  Petals to the Metal: its mounts on Kaggle, its download, its 104 class names
synthetic    flowers painted by the computer: as a competition or as a folder of photos
run_csv      the csv of a test split: which file, writing it, its problems, its score
painting     a picture of a species, pixel by pixel
session      how a notebook starts: its device, folder and data
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "run_csv": "choose_csv find_problems find_score write_csv",
        "finder": "find_data check_source find_test_ids check_test_split read_test_labels "
        "is_competition_required is_of_photos find_output OUTPUTS",
        "synthetic": "draw_competition draw_flower draw_photos",
        "session": "start_session",
        "competition": "CLASS_NAMES KAGGLE SLUG",
    },
)
