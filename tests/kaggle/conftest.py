from fake_kaggle import checkout, client, fake, five_images, lines  # noqa: F401 - fixtures
