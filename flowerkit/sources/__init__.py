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
        "choose_csv": "run_csv",
        "find_problems": "run_csv",
        "find_score": "run_csv",
        "read_test_labels": "run_csv",
        "write_csv": "run_csv",
        "find_data": "finder",
        "check_source": "finder",
        "find_test_ids": "finder",
        "check_test_split": "finder",
        "is_competition_required": "finder",
        "is_of_photos": "finder",
        "draw_competition": "synthetic",
        "draw_flower": "synthetic",
        "draw_photos": "synthetic",
        "start_session": "session",
        "CLASS_NAMES": "competition",
        "KAGGLE": "competition",
        "SLUG": "competition",
        "WORKING": "competition",
        "has_kaggle_token": "competition",
    },
)
