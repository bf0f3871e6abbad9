"""Two photographs of any sizes, matched by DUNE-MASt3R on the DUNE encoder that its file names."""

import alumnus

found = alumnus.match(
    "left.jpg",
    "right.jpg",
    "dunemast3r_cvpr25_vitbase.pth",
    encoder="dune_vitbase14_448_paper.pth",
    out="found",  # matches.csv, cameras.json, matches.png
)
print(found)
for (x1, y1), (x2, y2) in zip(found.left[:5], found.right[:5], strict=True):
    print(f"({x1:.0f}, {y1:.0f}) in left.jpg is ({x2:.0f}, {y2:.0f}) in right.jpg")
