"""Learning rates by depth: early layers of a pretrained encoder move less than late ones."""

from alumnus.encoders import Encoder

__all__ = ["layer_rates"]


def layer_rates(encoder: Encoder, *, rate: float, decay: float) -> dict[str, float]:
    """The peak rate of each parameter: rate * decay ** (layers above it).

    Layers are what lies before the first block (or stage), each block, and what lies behind the
    last one, which has `rate` itself. An encoder without `units` is one layer.

    Source: layer-wise decay of ELECTRA (arXiv 2003.10555), for ViTs of BEiT (arXiv 2106.08254).
    """
    units = list(getattr(encoder, "units", []))
    number = {id(p): i for i, unit in enumerate(units, start=1) for p in unit.parameters()}
    last = len(units) + 1
    rates: dict[str, float] = {}
    passed = not units  # whether a parameter of the units has come
    for name, parameter in encoder.named_parameters():  # in the order of the modules
        layer = number.get(id(parameter), last if passed else 0)
        passed |= id(parameter) in number
        rates[name] = rate * decay ** (last - layer)
    return rates
