"""The body in torch is the body of the renderer, and has gradients."""

import numpy as np
import torch

from alumnus.miniworld.body import BONES, JOINTS, load_body
from alumnus.miniworld.people import body_points
from alumnus.miniworld.torch_body import TorchBody, mirrored

RNG = np.random.default_rng(3)


def poses(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = torch.from_numpy(RNG.normal(size=(count, 16)).astype(np.float32))
    turns = np.linalg.qr(RNG.normal(size=(count, len(BONES), 3, 3)))[0]
    turns *= np.sign(np.linalg.det(turns))[..., None, None]
    return shape, torch.from_numpy(turns.astype(np.float32))


def test_torch_body_is_the_renderers() -> None:
    shape, rotations = poses(4)
    found = TorchBody()(shape, rotations)
    for i in range(len(shape)):
        given = shape[i].numpy(), rotations[i].numpy(), np.zeros(3, np.float32)
        # other order of sums in float32; bodies of 2 m
        np.testing.assert_allclose(found.vertices[i], body_points(*given), atol=1e-5)
        joints = body_points(*given, only_joints=True)
        np.testing.assert_allclose(found.joints[i], joints, atol=1e-5)


def test_fewer_vertices_are_some_of_all() -> None:
    shape, rotations = poses(2)
    few, every = TorchBody(every=8)(shape, rotations), TorchBody()(shape, rotations)
    torch.testing.assert_close(few.vertices, every.vertices[:, ::8])
    torch.testing.assert_close(few.joints, every.joints)


def test_gradients_are_those_of_differences() -> None:
    shape, rotations = (x.double() for x in poses(1))
    body = TorchBody(every=400)
    shape, rotations = shape.float().requires_grad_(), rotations.float().requires_grad_()
    body(shape, rotations).vertices.sum().backward()
    for x in (shape, rotations):
        assert x.grad is not None
        step = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 1e-2
        with torch.no_grad():
            ends = [
                body(*(y + s * step if y is x else y for y in (shape, rotations))).vertices.sum()
                for s in (1, -1)
            ]
        expected = (ends[0] - ends[1]) / 2
        found = (x.grad * step).sum()
        # the chain of rotations is not linear; third order in the step
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_the_body_is_its_own_mirror_image() -> None:
    body, flip = load_body(), np.array([-1, 1, 1], np.float32)
    bones = mirrored(tuple(name for name, *_ in BONES))
    joints = mirrored(tuple(name for name, _ in JOINTS))
    heads, at = body.mean[body.vertices :], body.joint_point
    np.testing.assert_allclose(heads[bones] * flip, heads, atol=5e-4)
    # fingers and toes are vertices, chosen on each side for themselves
    np.testing.assert_allclose(body.mean[at][joints] * flip, body.mean[at], atol=8e-3)
    basis = body.basis[:, at]
    np.testing.assert_allclose(basis[:, joints] * flip, basis, atol=1e-3)
