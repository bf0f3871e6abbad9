"""People drawn over their photograph: meshes with the light at the camera, or places of heads.

Axes: V vertices, T triangles, H W pixels.
"""

import colorsys

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from alumnus.bodies.finding import FoundPeople
from alumnus.heads.people.camera import project
from alumnus.heads.photos import smooth_filter
from alumnus.miniworld.outfits import normals
from alumnus.miniworld.raster import interpolate, rasterise
from alumnus.miniworld.vectors import Array

__all__ = ["mesh_over", "people_picture"]

Picture = NDArray[np.uint8]  # [H, W, 3]
Colour = tuple[int, int, int]
SHOWN_PX = (640, 1280)  # long side of a picture: not less, so that joints show, and not more
OPACITY = 0.8
HEAD_M = 0.13  # radius of the circle around a head
NEAREST_M = 0.05  # what is nearer to the camera is not drawn


def people_picture(found: FoundPeople, photo: Image.Image) -> Image.Image:
    """The photograph, as `read_photo` gives it, with everyone in it, the farthest first."""
    factor = min(max(max(photo.size), SHOWN_PX[0]), SHOWN_PX[1]) / max(photo.size)
    width, height = (max(1, round(side * factor)) for side in photo.size)
    picture = np.array(photo.resize((width, height), smooth_filter(factor)))
    sizes = torch.tensor([width / photo.width, height / photo.height, 1.0])
    K = sizes.diag() @ found.K
    order = found.translation[:, 2].argsort(descending=True).tolist()
    if found.body is not None and found.points is not None:
        for person in order:
            vertices = found.points.vertices[person].numpy()
            picture = mesh_over(
                picture, vertices, found.body.faces, K.numpy(), colour=_colour(person)
            )
    drawn = Image.fromarray(picture)
    pen = ImageDraw.Draw(drawn)
    for person in order:
        _draw_bones(pen, found, person, K)
    return drawn


def mesh_over(
    picture: Picture,
    vertices: Array,  # [V, 3] metres before the camera
    faces: NDArray[np.intp],  # [T, 3]
    K: Array,  # [3, 3] of the picture
    *,
    colour: Colour,
    opacity: float = OPACITY,
) -> Picture:
    """A mesh over a picture, shaded as by a lamp at the camera; what is behind it is not drawn."""
    height, width = picture.shape[:2]
    depth = vertices[:, 2]
    before = np.maximum(depth, np.float32(NEAREST_M))
    x, y = (vertices[:, :2] / before[:, None] * K[[0, 1], [0, 1]] + K[:2, 2]).T
    near = np.where(depth > NEAREST_M, 1 / before, 0).astype(np.float32)
    x, y = (np.asarray(c, np.float32) for c in (x, y))
    seen = rasterise(x, y, near, faces, width=width, height=height)
    slant = interpolate(seen, faces, normals(vertices, faces))[2]
    shade = (0.3 + 0.7 * np.abs(slant)[:, None]) * np.array(colour)
    drawn = picture.reshape(-1, 3).copy()
    blended = opacity * shade + (1 - opacity) * drawn[seen.sample]
    drawn[seen.sample] = np.clip(blended, 0, 255).astype(np.uint8)
    return drawn.reshape(picture.shape)


def _draw_bones(pen: ImageDraw.ImageDraw, found: FoundPeople, person: int, K: torch.Tensor) -> None:
    """Lines between joints before the camera; without a body a circle around the head."""
    colour = _colour(person)
    if found.body is None or found.points is None:
        point = found.translation[person]
        x, y = project(point.view(1, 1, 3), K[None])[0, 0].tolist()
        radius = max(4.0, HEAD_M * float(K[0, 0]) / max(float(point[2]), NEAREST_M))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=3)
        return
    joints = found.points.joints[person]
    places = project(joints[None], K[None])[0].tolist()
    seen = (joints[:, 2] > NEAREST_M).tolist()
    dark = tuple(part // 3 for part in colour)
    for one, other in found.body.links:
        if seen[one] and seen[other]:
            pen.line([*places[one], *places[other]], fill=dark, width=2)


def _colour(person: int) -> Colour:
    """Of the n-th person: hues far apart."""
    red, green, blue = colorsys.hsv_to_rgb((0.10 + 0.618 * person) % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
