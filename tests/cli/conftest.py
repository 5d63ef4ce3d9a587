from fake_kaggle import checkout, command, fake, five_images  # noqa: F401 - fixtures
