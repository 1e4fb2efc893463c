"""Valid files of each kind that the program reads, for the fuzzer to damage."""

import io
import json
import zipfile

import h5py
import numpy as np
import tifffile
from PIL import Image, ImageCms
from PIL.ExifTags import Base

from core.runs.run import METRICS
from core.settings import TransferSettings
from core.transfer.checkpoint import Checkpoint

RUN_ID = "20260101-000000-000000-photo-painting-abcd"
SETTINGS = TransferSettings(size=64, iterations=4, style_layers=("block1_conv1", "block2_conv1"))
HEIGHT, WIDTH = 48, 64


def noise(height=HEIGHT, width=WIDTH, channels=3, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def saved(image, file_format, **how):
    file = io.BytesIO()
    image.save(file, file_format, **how)
    return file.getvalue()


def tiff(array, **how):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **how)
    return file.getvalue()


def pictures():
    """Return a file of each format, in all modes with different decoders."""
    rgb, rgba = Image.fromarray(noise()), Image.fromarray(noise(channels=4))
    grey, palette = rgb.convert("L"), rgb.convert("P")
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    exif[Base.ImageDescription] = "a description"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return {
        "rgb.png": saved(rgb, "PNG", icc_profile=profile, exif=exif),
        "rgba.png": saved(rgba, "PNG"),
        "palette.png": saved(palette, "PNG", transparency=3),
        "deep.png": saved(Image.fromarray(noise()[..., 0].astype(np.uint16) * 200), "PNG"),
        "rgb.jpg": saved(rgb, "JPEG", exif=exif, icc_profile=profile),
        "progressive.jpg": saved(rgb, "JPEG", progressive=True),
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "lossy.webp": saved(rgb, "WEBP", exif=exif),
        "lossless.webp": saved(rgba, "WEBP", lossless=True),
        "film.webp": saved(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)]),
        "rgb.tif": saved(rgb, "TIFF"),
        "packed.tif": saved(rgb, "TIFF", compression="tiff_lzw", icc_profile=profile),
        "jpeg.tif": saved(rgb, "TIFF", compression="jpeg"),
        "float.tif": tiff(noise().astype(np.float32) / 255, photometric="rgb"),
        "deep.tif": tiff(noise().astype(np.uint16) * 200, photometric="rgb", compression="zlib"),
        "planes.tif": tiff(noise().astype(np.uint16).transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        "rgb.bmp": saved(rgb, "BMP"),
        "palette.bmp": saved(palette, "BMP"),
        "palette.gif": saved(palette, "GIF"),
        "film.gif": saved(palette, "GIF", save_all=True, append_images=[palette.rotate(90), palette]),
        "grey.jpg": saved(grey, "JPEG"),
    }


def record():
    """Return the run.json of a finished run."""
    return {
        "schema_version": 2,
        "id": RUN_ID,
        "created": "2026-01-01T00:00:00Z",
        "status": "done",
        "message": "",
        "preset": "draft",
        "settings": SETTINGS.model_dump(mode="json"),
        "content": "photo",
        "styles": [{"name": "painting"}],
        "shape": [HEIGHT, WIDTH],
        "weights": "imagenet, 8-bit",
        "steering": [{"iteration": 2, "changes": {"style_weight": 0.1}}],
        "timings": {"pictures": 0.1, "first step": 0.5, "median step": 0.25, "total": 2.5},
        "environment": {"processor": "a processor", "versions": {"tensorflow": "2.21.0"}},
        "iteration": 4,
        "evaluations": 5,
        "best_iteration": 4,
        "best_total": 5.5,
        "writer": {"pid": 1, "started": 1.5},
    }


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def checkpoint(folder):
    image = np.random.default_rng(2).uniform(-100, 100, (1, HEIGHT, WIDTH, 3)).astype(np.float32)
    Checkpoint(image, image + 1, 4, 4, 5, 2.5, {"count": np.int64(3), "m": image}).save(folder / "checkpoint.npz")
    return (folder / "checkpoint.npz").read_bytes()


def run_files():
    """Return the files of a run by their names, without the checkpoint."""
    head = ",".join([*METRICS, *SETTINGS.style_layers])
    lines = [f"{number},{number + 1},0.5,{9.5 - number},4,5,0,1,3" for number in range(5)]
    frames = {
        f"frames/{number:06d}.jpg": saved(Image.fromarray(noise(seed=number)), "JPEG", quality=90) for number in (0, 4)
    }
    return {
        "run.json": json.dumps(record()).encode(),
        "metrics.csv": "\n".join([head, *lines, ""]).encode(),
        "marks.json": json.dumps({"name": "The one", "note": "two\nlines", "favourite": True}).encode(),
        "content.png": saved(Image.fromarray(noise(60, 80)), "PNG"),
        "style-1.png": saved(Image.fromarray(noise(60, 80, seed=3)), "PNG"),
        "result.png": saved(Image.fromarray(noise(seed=4)), "PNG"),
        "live.jpg": saved(Image.fromarray(noise(seed=5)), "JPEG"),
        "result.npy": npy(np.random.default_rng(4).uniform(0, 255, (HEIGHT, WIDTH, 3)).astype(np.float32)),
        **frames,
    }


def zipped(files, folder=RUN_ID, compression=zipfile.ZIP_DEFLATED):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(f"{folder}/{name}", data)
    return packed.getvalue()


def measurement():
    """Return a measurement as nst bench writes it."""
    course = {"way": "fast", "seconds": [1.0, 2.5], "totals": [9e6, 8e6], "step": 1.5, "to_target": None}
    return {
        "schema_version": 1,
        "created": "2026-01-01T00:00:00Z",
        "environment": {"processor": "a processor", "cores": 2, "gpus": [], "versions": {"tensorflow": "2.21.0"}},
        "weights": "imagenet, 8-bit",
        "comparisons": [
            {"title": "One step", "timings": [{"way": "eager", "size": 256, "seconds": [2.0, 1.0]}]},
        ],
        "pairs": [{"pair": "a × b", "shape": [64, 96], "target": 7e6, "courses": [course]}],
    }


def weights_files(folder):
    """Return weights files that start correctly but lack most layers."""
    with h5py.File(folder / "weights.h5", "w") as file:
        for layer, shape in {"block1_conv1": (3, 3, 3, 64), "block1_conv2": (3, 3, 64, 64)}.items():
            group = file.create_group(layer)
            group.create_dataset(f"{layer}_W_1:0", shape, np.float32)
            group.create_dataset(f"{layer}_b_1:0", data=np.zeros(shape[-1:], np.float32))
    return {"weights.h5": (folder / "weights.h5").read_bytes()}
