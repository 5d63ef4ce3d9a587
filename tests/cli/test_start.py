def test_draw_makes_data_that_check_can_measure(flowerkit, tmp_path):
    words = "--classes 3 --image-size 16 --train 12 --val 3 --test 5 --seed 4"
    status, out, _ = flowerkit("draw", tmp_path / "d", *words.split())
    assert status == 0
    assert out == [f"drawn flowers: 3 classes, 16 px, train 12, val 3, test 5 ({tmp_path / 'd'})"]
    sample = tmp_path / "d" / "sample_submission.csv"
    assert flowerkit("check", sample, "--data", tmp_path / "d")[0] == 0


def test_draw_makes_photos_on_request(flowerkit, tmp_path):
    status, out, _ = flowerkit("draw", tmp_path / "d", "--photos", 2, "--classes", 3)
    assert (status, out) == (0, [f"drew 6 photos of 3 species into {tmp_path / 'd'}"])
    assert len(list((tmp_path / "d").glob("*/*"))) == 6
