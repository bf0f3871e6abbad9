"""What the people teacher sees: `python -m alumnus.miniworld.people_pictures FILE.png`.

Three rows, a column for each person of the test split: the picture, the predicted body over it, and
predicted (orange) and true (blue) body from the right of the camera.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from alumnus.bodies.drawing import mesh_over
from alumnus.encoders import Encoder
from alumnus.heads.people import PeopleHead, load_people_head
from alumnus.miniworld import MiniworldSource, render_person, teacher_folder
from alumnus.miniworld.body import load_body
from alumnus.miniworld.people_bodies import read_people, true_bodies
from alumnus.miniworld.people_learning import predict
from alumnus.miniworld.sheet import Picture, tiled
from alumnus.miniworld.torch_body import TorchBody
from alumnus.miniworld.vectors import Array
from alumnus.runs import load_encoder

__all__ = ["drawn_over", "predicted_sheet"]

_ORANGE, _BLUE = (250, 170, 50), (90, 180, 255)
_ASIDE_M = 3.2  # from where bodies are seen from the side


def drawn_over(
    picture: Picture, vertices: Array, K: Array, *, colour: tuple[int, int, int] = _ORANGE
) -> Picture:
    """The body's mesh [V, 3] over a picture."""
    return mesh_over(picture, vertices, load_body().faces, K, colour=colour, opacity=1.0)


@torch.no_grad()
def predicted_sheet(
    encoder: Encoder, head: PeopleHead, *, count: int = 6, size_px: int = 160
) -> Picture:
    """The first `count` people of the test split."""
    source, body = MiniworldSource("people", "test", length=count), TorchBody()
    people = read_people(source)
    found = predict(encoder, head, body, people.view(slice(None)))
    truth = true_bodies(people, body)
    rows: tuple[list[Picture], ...] = ([], [], [])
    for i in range(count):
        person = render_person(source.seed, i, size_px)
        rows[0].append(person.image)
        rows[1].append(drawn_over(person.image // 2, found.vertices[i].numpy(), person.K))
        aside = np.full_like(person.image, 40)
        for bodies, colour in ((truth, _BLUE), (found, _ORANGE)):
            shift = np.array([0.35 if bodies is found else -0.35, 0, 0], np.float32)
            points = (bodies.vertices[i] - bodies.pelvis[i]).numpy()
            aside = drawn_over(aside, _from_the_right(points) + shift, person.K, colour=colour)
        rows[2].append(aside)
    return tiled([picture for row in rows for picture in row], columns=count)


def _from_the_right(points: Array) -> Array:
    """Points [V, 3] about the origin, seen from the camera's right and some metres away."""
    x, y, z = points.T
    return np.stack([z, y, _ASIDE_M - x], axis=1)


def main() -> None:
    """Write the picture of the docs."""
    parser = argparse.ArgumentParser(prog="python -m alumnus.miniworld.people_pictures")
    parser.add_argument("file", type=Path)
    parser.add_argument("--folder", type=Path, default=teacher_folder("people"))
    given = parser.parse_args()
    sheet = predicted_sheet(load_encoder(given.folder), load_people_head(given.folder))
    Image.fromarray(sheet).save(given.file, optimize=True)


if __name__ == "__main__":
    main()
