import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageFile

from lavis_mafa.data.images import BadImageError, ImageFiles, open_image

RED = (200, 30, 40)


def pixel(folder, name, image, **options):
    image.save(folder / name, **options)
    opened = open_image(folder, name)
    assert opened.mode == "RGB"
    assert opened.size == image.size
    return opened.getpixel((0, 0))


def near(colour, wanted, tolerance=4):
    return np.abs(np.subtract(colour, wanted)).max() <= tolerance


def test_modes_become_rgb(tmp_path):
    red = Image.new("RGB", (8, 8), RED)
    assert pixel(tmp_path, "rgb.png", red) == RED
    assert near(pixel(tmp_path, "cmyk.jpg", red.convert("CMYK"), quality=100), RED)
    assert pixel(tmp_path, "palette.png", red.convert("P", palette=Image.Palette.ADAPTIVE)) == RED
    assert pixel(tmp_path, "grey.png", Image.new("L", (8, 8), 77)) == (77, 77, 77)
    assert pixel(tmp_path, "one_bit.png", Image.new("1", (8, 8), 1)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    grey = np.full((8, 8), 128 * 257, np.uint16)
    assert pixel(tmp_path, "sixteen.png", Image.fromarray(grey)) == (128, 128, 128)
    assert pixel(tmp_path, "sixteen.tif", Image.fromarray(grey)) == (128, 128, 128)
    assert pixel(tmp_path, "wide.tif", Image.fromarray(grey.astype(np.int32))) == (128, 128, 128)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_as_a_viewer_shows_them(tmp_path, suffix, orientation):
    marked = np.zeros((40, 64, 3), np.uint8)
    marked[:20, :32] = RED  # the upper left quarter
    undo = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}  # Image.Transpose from upright to stored
    stored = Image.fromarray(marked)
    for method in undo.get(orientation, []):
        stored = stored.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"turned.{suffix}", exif=exif)
    opened = open_image(tmp_path, f"turned.{suffix}")
    assert opened.size == (64, 40)
    assert near(opened.getpixel((10, 10)), RED, 12)
    for corner in ((54, 10), (10, 30), (54, 30)):
        assert near(opened.getpixel(corner), (0, 0, 0), 12)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_a_damaged_exif_block_says_nothing(tmp_path, exif):
    assert near(pixel(tmp_path, "odd.jpg", Image.new("RGB", (8, 8), RED), exif=exif, quality=100), RED)


def test_float_levels_are_scaled_from_their_range(tmp_path):
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    for name, levels in {"one.tif": ramp, "byte.tif": 255 * ramp}.items():
        Image.fromarray(levels).save(tmp_path / name)
        assert np.asarray(open_image(tmp_path, name))[..., 0].tolist() == (255 * ramp).round().astype(int).tolist()


@pytest.mark.parametrize("levels", [-0.5, 1000.0, np.nan, np.inf, -1, 70_000])
def test_levels_of_an_unknown_scale_are_refused(tmp_path, levels):
    grey = np.full((8, 8), levels, np.int32 if isinstance(levels, int) else np.float32)
    grey[0] = 0
    Image.fromarray(grey).save(tmp_path / "odd.tif")
    with pytest.raises(BadImageError, match=r"odd\.tif .*grey levels lie in .* not in 0 .*save it with 8 or 16"):
        open_image(tmp_path, "odd.tif")


def test_alpha_lies_on_white(tmp_path):
    assert pixel(tmp_path, "clear.png", Image.new("RGBA", (8, 8), (*RED, 0))) == (255, 255, 255)
    assert pixel(tmp_path, "solid.png", Image.new("RGBA", (8, 8), (*RED, 255))) == RED
    assert pixel(tmp_path, "grey.png", Image.new("LA", (8, 8), (0, 127))) == (128, 128, 128)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([*RED, 0, 0, 0])
    assert pixel(tmp_path, "clear_palette.png", palette, transparency=0) == (255, 255, 255)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    assert near(pixel(tmp_path, "moving.gif", frames[0], save_all=True, append_images=frames[1:]), RED)


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.png", "a/../../secret.png", ".."])
def test_paths_stay_below_the_root(tmp_path, path):
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    (tmp_path / "root" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match="leads outside the image folder.*make it relative") as error:
        open_image(tmp_path / "root", path)
    assert not isinstance(error.value, BadImageError)  # never to be replaced silently


@pytest.mark.parametrize("lavis_is_loaded", [False, True])
def test_broken_files_are_named(tmp_path, monkeypatch, lavis_is_loaded):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lavis_is_loaded)  # importing LAVIS sets it
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    Image.fromarray(noise).save(tmp_path / "whole.png")
    for suffix in ("jpg", "png"):
        content = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"truncated.{suffix}").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "pointer.jpg").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "folder.jpg").mkdir()
    wanted = {
        "missing.jpg": "no image file",
        "folder.jpg": "no image file",
        "empty.jpg": "zero bytes",
        "text.jpg": "cannot be read",
        "pointer.jpg": "is a pointer of git-lfs",
        "truncated.jpg": "cannot be read",
        "truncated.png": "cannot be read",
    }
    for name, message in wanted.items():
        with pytest.raises(BadImageError, match=message) as error:
            open_image(tmp_path, name)
        assert str(tmp_path / name) in str(error.value)
        assert name in ("missing.jpg", "folder.jpg", "empty.jpg") or isinstance(error.value.__cause__, OSError)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [90, 40])  # Pillow only warns below twice its limit, and raises above
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
    Image.new("RGB", (10, 10)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(BadImageError, match=r"bomb\.png is refused as a decompression bomb"):
        open_image(tmp_path, "bomb.png")


def test_image_files_open_by_record(tmp_path):
    Image.new("RGB", (3, 5)).save(tmp_path / "b.png")
    assert ImageFiles(str(tmp_path), pa.array(["a.png", "b.png"]))(1).size == (3, 5)
