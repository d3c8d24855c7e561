"""`thriftgrad predict`: what a run takes pictures of one's own for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from thriftgrad import nn
from thriftgrad import train as training
from thriftgrad.cli._config import Config
from thriftgrad.cli.evaluate import trained
from thriftgrad.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

_BAR = 30
_BLANK = 2
"""So many of the 256 greys may lie between the pixels of a picture that shows nothing."""


def predict(
    run: Annotated[
        Path, typer.Argument(help="Folder of a run, as train makes it.", show_default=False)
    ],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Pictures, one object or digit each.", show_default=False, metavar="IMAGE.png..."
        ),
    ],
) -> None:
    """Print what class a run takes each picture for, and how surely.

    Colours become grey; a picture of another size is shrunk or enlarged to fit that of the
    training images and centred on its own background; one that is dark on light where those are
    light on dark is inverted. What was done is said.
    """
    config, model = trained(run)
    if config.image is None:
        raise DataError(
            f"the run in {run} was not trained on grey pictures with pixels from 0 to 1, so that "
            f"there is no saying how a picture becomes one of its inputs"
        )
    pictures = [_read(path, config.image, config.background) for path in images]
    rows = np.stack([pixels.reshape(-1) for pixels, _ in pictures]).astype(config.dtype)
    outputs = training.predict(model, rows)
    if config.takes_labels:
        outputs = nn.softmax(outputs)
    for path, (_, changes), scores in zip(images, pictures, outputs, strict=True):
        typer.echo(
            f"{path}: {np.argmax(scores)}" + (f"  ({', '.join(changes)})" if changes else "")
        )
        for label, score in enumerate(scores):
            typer.echo(_line(label, float(score), config))


def _line(label: int, score: float, config: Config) -> str:
    # Outputs of a sigmoid layer lie between 0 and 1 as well, but do not sum to 1.
    number = f"{100 * score:5.1f} %" if config.takes_labels else f"{score:7.3f}"
    return f"  {label:3d}  {number}  {'█' * round(_BAR * score)}".rstrip()


def _read(path: Path, shape: list[int], background: float) -> tuple[NDArray[Any], list[str]]:
    """Return a picture's pixels as the training images have them, and what was done to it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "reading pictures needs pillow, which is not installed: pip install 'thriftgrad[cli]'"
        ) from error
    try:
        with Image.open(path) as opened:
            picture, changes = _grey(opened)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a picture that can be read: {error}") from error

    pixels = np.asarray(picture)
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    paper = int(np.median(rim))
    height, width = shape
    if picture.size != (width, height):
        changes.append(f"fitted from {picture.width} × {picture.height} to {width} × {height}")
        scale = min(width / picture.width, height / picture.height)
        inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        canvas = Image.new("L", (width, height), paper)
        shrunk = picture.resize(inner, Image.Resampling.LANCZOS)
        canvas.paste(shrunk, ((width - inner[0]) // 2, (height - inner[1]) // 2))
        pixels = np.asarray(canvas)
    if int(pixels.max()) - int(pixels.min()) <= _BLANK:
        raise DataError(f"{path}: the picture is blank: all its pixels are of one grey")
    if (paper > 127) != (background > 0.5):
        changes.append("inverted")
        pixels = 255 - pixels
    return pixels / 255, changes


def _grey(picture: Image) -> tuple[Image, list[str]]:
    """Return a picture in 256 greys; where it is transparent, paper shows through."""
    from PIL import Image

    changes = []
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        paper = "black" if _light_ink(picture) else "white"
        changes.append(f"put on {paper}")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, paper), picture)
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"it has pixels of mode {picture.mode}; expected 8 bits a channel")
    return picture.convert("L"), changes


def _light_ink(picture: Image) -> bool:
    """Say whether what stands on a transparent ground is light: on white it would be lost."""
    opacity = np.asarray(picture.getchannel("A"), dtype=np.float64)
    rim = np.concatenate([opacity[0], opacity[-1], opacity[:, 0], opacity[:, -1]])
    if np.median(rim) > 127 or not opacity.any():
        return False
    grey = np.asarray(picture.convert("RGB").convert("L"))
    return bool(np.average(grey, weights=opacity) > 127)
