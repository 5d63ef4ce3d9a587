"""run_photos: the nearest training photos of a photo, and examples, from a run's own data."""

import shutil

import numpy as np
import pytest
from exported_run import CLASSES, draw_photo, train_on_photos

from flowerkit.deploy import ClassifierPage, load_classifier
from flowerkit.deploy.run_photos import RunPhotos, SimilarPhotos, find_examples
from flowerkit.text import format_csv
from flowerkit.training import RunFolder


@pytest.fixture(scope="module")
def classifier():
    return load_classifier(train_on_photos("pad"))


@pytest.fixture
def moved(classifier):
    """The run while its data are elsewhere."""
    folder = classifier.path.parent / "data"
    folder.rename(folder.with_name("elsewhere"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name("elsewhere").rename(folder)


@pytest.mark.backends
@pytest.mark.replicas
def test_a_training_photo_is_most_like_itself_and_then_like_its_class(classifier, accelerator):
    similar = SimilarPhotos(classifier.run_folder, classifier.model)
    split = similar.photos.split
    rows = [3, 20, 40]
    found = similar.find(split.images[np.array(rows)], 4)
    for row, photos in zip(rows, found, strict=True):
        assert [photo.class_name for photo in photos] == [CLASSES[split.labels[row]]] * 4
        np.testing.assert_array_equal(photos[0].pixels, split.images[row])
        assert photos[0].similarity == pytest.approx(1, abs=1e-4)
        similarities = [photo.similarity for photo in photos]
        assert similarities == sorted(similarities, reverse=True)
        folder, name = photos[0].name.split("/")
        assert (folder, name.endswith(".png")) == (photos[0].class_name, True)


def test_predictions_have_as_many_similar_photos_as_were_asked_for(classifier, tmp_path):
    (tmp_path / "a.jpg").touch()
    draw_photo("rose", 50).save(tmp_path / "b.png")
    unread, rose = classifier.predict(tmp_path, similar=2)
    assert unread.similar == ()
    assert [photo.class_name for photo in rose.similar] == ["rose", "rose"]
    assert classifier.predict(tmp_path / "b.png")[0].similar == ()


@pytest.mark.parametrize("similar", [-1, 2.5, "3", None])
def test_a_number_of_similar_photos_that_cannot_be_is_refused(classifier, similar):
    for use in (
        lambda: classifier.predict(draw_photo("rose"), similar=similar),
        lambda: ClassifierPage(classifier, similar=similar),
    ):
        with pytest.raises(ValueError, match=rf"similar={similar!r}.*whole number from 0"):
            use()


def test_examples_are_photos_of_val_of_as_many_classes_as_there_are(classifier):
    examples = find_examples(classifier.run_folder, 6)
    names = [photo.class_name for photo in examples]
    assert len(names) == 6
    assert set(names[:4]) == set(CLASSES)
    assert examples[0].pixels.shape == (32, 32, 3)
    again = find_examples(classifier.run_folder, 6)
    assert [photo.name for photo in again] == [photo.name for photo in examples]


def test_data_that_are_gone_or_others_are_named(classifier, moved):
    again = rf"flowerkit convert .*photos {moved} --image-size 32"
    with pytest.raises(
        FileNotFoundError, match=rf"not in {moved} any more. Put them back.*{again}"
    ):
        find_examples(classifier.run_folder)
    shutil.copytree(moved.with_name("elsewhere"), moved)
    train = moved / "tfrecords-jpeg-32x32" / "train"
    shutil.rmtree(train)
    shutil.copytree(train.with_name("val"), train)
    with pytest.raises(ValueError, match=f"{moved} holds others than the train images"):
        SimilarPhotos(classifier.run_folder, classifier.model)


def test_photos_have_the_paths_that_the_conversion_wrote_and_others_are_refused(classifier):
    run = classifier.run_folder
    file = run.data().folder / "photos.csv"
    before = file.read_bytes()
    first = str(run.split("train").ids[0])
    try:
        file.write_text(format_csv([["id", "path"], [first, "=x/1.jpg"]]), encoding="utf-8")
        assert RunPhotos(run, "train").get(0).name == "=x/1.jpg"
        for damaged in (
            b"id;path\n1;2\n",
            b"id,path\n1\n",
            "id,path\n1,caf\xe9\n".encode("latin-1"),
        ):
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match="photos.csv is not as the conversion wrote it"):
                RunPhotos(run, "train")
    finally:
        file.write_bytes(before)


def test_a_file_that_is_no_run_knows_no_photos(classifier, tmp_path):
    shutil.copy(classifier.path / "model.keras", tmp_path / "m.keras")
    with pytest.raises(FileNotFoundError, match="no run folder.*Pass the run's folder"):
        find_examples(RunFolder(tmp_path))
