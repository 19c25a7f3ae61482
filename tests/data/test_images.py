import ast
import errno
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from lavis_mafa.data.images import BadImageError, ImageFiles, open_image
from lavis_mafa.data.rules import FileRules

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
    with pytest.raises(BadImageError, match=r"bomb\.png is refused as a decompression bomb.*max_pixels"):
        open_image(tmp_path, "bomb.png", FileRules(max_pixels=limit))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)  # the data set's setting goes before Pillow's
    assert open_image(tmp_path, "bomb.png").size == (10, 10)
    assert Image.MAX_IMAGE_PIXELS == 1


def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 30_000
    with pytest.raises(BadImageError, match="81,000,000 pixels, at most 64,000,000 are read"):
        open_image(tmp_path, "bomb.png")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize("content", [EPS, b"ICO", b"TGA", b"PCX", b"JPEG2000"])
def test_only_listed_formats_are_opened_whatever_the_name(tmp_path, monkeypatch, content):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **rest: pytest.fail("Ghostscript was started"))
    if content != EPS:
        Image.new("RGB", (16, 16)).save(tmp_path / "cat.jpg", content.decode())
    else:
        (tmp_path / "cat.jpg").write_bytes(content)
    with pytest.raises(BadImageError, match=r"cat\.jpg cannot be read \(it is none of JPEG, PNG, WEBP"):
        open_image(tmp_path, "cat.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO"])
def test_listed_formats_are_opened_whatever_the_name(tmp_path, kind):
    Image.new("RGB", (16, 16), "white").save(tmp_path / "cat", kind)  # a phone's MPO is a JPEG with a second picture
    assert open_image(tmp_path, "cat").getpixel((0, 0)) == (255, 255, 255)


def opens_any_format(node):
    call = isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open")
    return call and not any(one.arg == "formats" for one in node.keywords)


def test_no_other_module_opens_an_image_of_any_format():
    root = Path(__file__).parents[2]
    modules = [path for folder in ("lavis_mafa", "projects") for path in (root / folder).rglob("*.py")]
    assert len(modules) > 100
    trees = {str(path): ast.parse(path.read_text(encoding="utf-8")) for path in modules}
    assert [path for path, tree in trees.items() if any(map(opens_any_format, ast.walk(tree)))] == []


@pytest.mark.skipif(find_spec("lavis") is None, reason="LAVIS is not installed")
def test_lavis_own_data_sets_open_images_as_ours_do(tmp_path, monkeypatch):
    import lavis_mafa

    lavis_mafa.register()
    modules = [module for name, module in sys.modules.items() if name.startswith("lavis.datasets.datasets.")]
    opening = [module for module in modules if hasattr(module, "Image")]
    assert len(opening) > 5
    (tmp_path / "cat.jpg").write_bytes(EPS)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **rest: pytest.fail("Ghostscript was started"))
    for module in opening:
        with pytest.raises(BadImageError, match="it is none of"):
            module.Image.open(str(tmp_path / "cat.jpg")).convert("RGB")


def test_links_stay_below_the_root_unless_allowed(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "inner", outside):
        folder.mkdir(parents=True)
        Image.new("RGB", (3, 5)).save(folder / "a.png")
    (root / "link.png").symlink_to(outside / "a.png")
    (root / "folder").symlink_to(outside)
    (root / "within.png").symlink_to(root / "inner" / "a.png")
    (tmp_path / "linked_root").symlink_to(root)
    for path in ("link.png", "folder/a.png"):
        with pytest.raises(ValueError, match="symbolic link .* outside .*allow_symlinks: true") as error:
            open_image(root, path)
        assert not isinstance(error.value, BadImageError)  # never to be replaced silently
        assert open_image(root, path, FileRules(allow_symlinks=True)).size == (3, 5)
    for folder in (root, tmp_path / "linked_root"):
        assert open_image(folder, "within.png").size == (3, 5)


def test_an_absolute_path_is_read_below_the_root_alone(tmp_path):
    for folder in ("root", "root2"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (3, 5)).save(tmp_path / folder / "a.png")
    assert open_image(tmp_path / "root", str(tmp_path / "root" / "a.png")).size == (3, 5)
    with pytest.raises(ValueError, match="leads outside"):
        open_image(tmp_path / "root", str(tmp_path / "root2" / "a.png"))


@pytest.mark.parametrize("path", ["x" * 300 + ".jpg", "a.jpg/b.jpg", "nul\0.jpg", "loop.jpg", "pipe.jpg"])
def test_whatever_keeps_a_file_from_being_read_is_a_bad_image(tmp_path, path):
    (tmp_path / "a.jpg").write_text("a file, no folder")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for a writer for ever
    with pytest.raises(BadImageError):
        open_image(tmp_path, path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("place", ["stat", "open"])
def test_errors_of_the_disk_are_bad_images(tmp_path, monkeypatch, number, place):
    Image.new("RGB", (3, 5)).save(tmp_path / "a.png")

    def fails(*args, **rest):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((Path, "stat") if place == "stat" else (Image, "open")), fails)
    with pytest.raises(BadImageError, match=rf"a\.png cannot be read \(.*{os.strerror(number)}"):
        open_image(tmp_path, "a.png")


def test_a_name_with_escape_sequences_is_shown_as_repr_shows_it(tmp_path):
    with pytest.raises(BadImageError) as error:
        open_image(tmp_path, "\x1b]0;owned\x07\u202egpj.exe")
    assert str(error.value).isprintable()
    assert r"\x1b]0;owned\x07\u202e" in str(error.value)


def test_image_files_open_by_record(tmp_path):
    Image.new("RGB", (3, 5)).save(tmp_path / "b.png")
    assert ImageFiles(str(tmp_path), pa.array(["a.png", "b.png"]))(1).size == (3, 5)
