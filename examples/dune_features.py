"""DUNE-B's features of a photograph, and a picture of their three principal components."""

import torch
from PIL import Image

import alumnus
from alumnus.heads.two_view import prepare_photo

encoder = alumnus.load("dune_vitbase14_448_paper.pth")
photo = prepare_photo("left.jpg", patch_size=encoder.patch_size, long_side_px=encoder.image_size)
with torch.no_grad():
    tokens = encoder(photo.images).final
patches = tokens.of("patch")[0]  # [N, 768]; the whole image: tokens.of("cls")[0]
centred = patches - patches.mean(dim=0)
parts = (centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:3].T).view(*tokens.grid, 3)
low, high = parts.amin(dim=(0, 1)), parts.amax(dim=(0, 1))
Image.fromarray((255 * (parts - low) / (high - low)).byte().numpy()).save("pca.png")
