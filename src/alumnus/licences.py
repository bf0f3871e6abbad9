"""Licences as data: what teachers' weights and data sets state, and what a student inherits.

It repeats what authors state, in four answers each; `unclear` is one. It is no legal advice.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

__all__ = [
    "DATA",
    "LICENCES",
    "POLICIES",
    "Licence",
    "Policy",
    "Terms",
    "find_licence",
    "refusals",
    "sentences",
]

Answer = Literal["yes", "no", "unclear"]
Policy = Literal["any", "permissive", "permissive-or-unclear"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


@dataclass(frozen=True)
class Licence:
    """The terms of one licence, as far as they matter to those who learn from a work."""

    name: str  # SPDX id, or as its authors call it
    commercial: Answer = "unclear"  # whether commercial use is allowed
    share_alike: Answer = "unclear"  # whether what derives from it has to keep these terms
    notice: Answer = "unclear"  # whether its text or a notice has to be passed on
    url: str | None = None

    @property
    def terms(self) -> str:
        """The answers in words."""
        return (
            f"commercial use {self.commercial}, share-alike {self.share_alike}, "
            f"notice {self.notice}"
        )


@dataclass(frozen=True)
class Terms:
    """What one teacher brings: the licence of its weights and the data that it was trained on."""

    of: str
    licence: str  # looked up by `find_licence`
    data: tuple[str, ...] = ()  # where known

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Terms":
        """The inverse of `dataclasses.asdict`, from JSON."""
        return cls(str(values["of"]), str(values["licence"]), tuple(values.get("data", ())))


SPDX = "https://spdx.org/licenses"
LICENCES: dict[str, Licence] = {
    row.name.lower(): row
    for row in (
        *(
            Licence(name, "yes", "no", "yes", f"{SPDX}/{name}.html")
            for name in ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "ISC", "MIT")
        ),
        *(
            Licence(name, "yes", "no", "no", f"{SPDX}/{name}.html")
            for name in ("0BSD", "CC0-1.0", "Unlicense")
        ),
        *(
            Licence(name, "yes", "yes", "yes", f"{SPDX}/{name}.html")
            for name in ("AGPL-3.0-only", "GPL-3.0-only", "CC-BY-SA-4.0")
        ),
        Licence("CC-BY-NC-4.0", "no", "no", "yes", f"{SPDX}/CC-BY-NC-4.0.html"),
        Licence("CC-BY-NC-SA-4.0", "no", "yes", "yes", f"{SPDX}/CC-BY-NC-SA-4.0.html"),
        Licence(
            "dinov3-license",
            "yes",
            "yes",
            "yes",
            "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
        ),
        Licence("fair-noncommercial-research-license", "no", "yes", "yes"),
        Licence(
            "nvidia-open-model-license",
            "yes",
            "no",
            "yes",
            "https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/",
        ),
    )
}
DATA: dict[str, Licence] = {
    "ImageNet-1K": Licence(
        "terms of access: non-commercial research and education",
        commercial="no",
        url="https://www.image-net.org/download.php",
    ),
    "ImageNet-21K": Licence(
        "terms of access: non-commercial research and education",
        commercial="no",
        url="https://www.image-net.org/download.php",
    ),
}
UNPUBLISHED = Licence("terms of its images not published")
CREATIVE_COMMONS = re.compile(r"cc-by(?P<nc>-nc)?(?P<nd>-nd)?(?P<sa>-sa)?(-\d\.\d(-[a-z]+)?)?")
COPYLEFT = re.compile(r"[al]?gpl(-\d\.\d(\+|-only|-or-later)?)?")


def find_licence(name: str) -> Licence:
    """The licence of that name, in any case; one that is not known is unclear in everything.

    Creative Commons and GNU licences are known in all their versions, and as model cards write
    them. Of what may not be shared once it is adapted (-ND) share-alike is unclear.

    >>> find_licence("apache-2.0").commercial, find_licence("homemade").commercial
    ('yes', 'unclear')
    >>> find_licence("cc-by-nc-sa-2.0").terms, find_licence("gpl-3.0").share_alike
    ('commercial use no, share-alike yes, notice yes', 'yes')
    """
    key = name.strip().lower()
    if key in LICENCES:
        return LICENCES[key]
    if parts := CREATIVE_COMMONS.fullmatch(key):
        share_alike: Answer = "yes" if parts["sa"] else "unclear" if parts["nd"] else "no"
        return Licence(name, "no" if parts["nc"] else "yes", share_alike, "yes")
    if COPYLEFT.fullmatch(key):
        return Licence(name, "yes", "yes", "yes")
    return Licence(name)


def refusals(policy: Policy, terms: Iterable[Terms]) -> Iterator[tuple[str, str]]:
    """(teacher, sentence) for each whose licence breaks the policy.

    Permissive is a licence that allows commercial use and is not share-alike. Data sets are not
    judged: whether their terms reach a model is open (see `sentences`).
    """
    if policy == "any":
        return
    for one in terms:
        licence = find_licence(one.licence)
        if licence.commercial == "no":
            yield one.of, _broken(policy, one, "does not allow commercial use")
        elif licence.share_alike == "yes":
            yield one.of, _broken(policy, one, "is share-alike")
        elif policy == "permissive" and "unclear" in (licence.commercial, licence.share_alike):
            yield (
                one.of,
                f"licence=permissive, but what {one.of} allows ({one.licence}) is unclear: state "
                f"it as teachers.{one.of}.licence=SPDX-ID where you know it, or accept that with "
                "licence=permissive-or-unclear",
            )


def sentences(terms: Sequence[Terms]) -> Iterator[str]:
    """What the teachers state, and what that means for the student."""
    alike_stated: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for one in terms:
        alike_stated.setdefault((one.licence, one.data), []).append(one.of)
    for (licence_name, data), names in alike_stated.items():
        licence = find_licence(licence_name)
        known = licence != Licence(licence_name)
        stated = f"{licence_name} ({licence.terms})" if known else licence_name
        trained = "".join(f"; trained on {_data(name)}" for name in data)
        yield f"{_and(names)} {_verb(names, 'state')} {stated}{trained}"
    found = {one.of: find_licence(one.licence) for one in terms}
    closed = [of for of, licence in found.items() if licence.commercial == "no"]
    alike = [of for of, licence in found.items() if licence.share_alike == "yes"]
    unclear = [
        of
        for of, licence in found.items()
        if of not in closed and "unclear" in (licence.commercial, licence.share_alike)
    ]
    if closed:
        yield f"student: {_and(closed)} {_verb(closed, 'forbid')} commercial use"
    if alike:
        yield f"student: {_and(alike)} {_verb(alike, 'ask')} for the same terms in what derives"
    if unclear:
        yield f"student: unclear, as nothing that is known here covers {_and(unclear)}"
    if not closed and not alike and not unclear:
        yield "student: no teacher states a restriction of use; keep their notices"
    limited = {name for one in terms for name in one.data if _terms_of(name).commercial == "no"}
    if limited:
        yield (
            f"student: whether the terms of {_and(sorted(limited))} reach those who learn from "
            "its images is unclear"
        )
    yield "terms as their authors state them, no legal advice; those of your images are not known"


def _broken(policy: Policy, one: Terms, why: str) -> str:
    return (
        f"licence={policy}, but {one.of} states {one.licence}, which {why}: leave it out, or take "
        "licence=any"
    )


def _data(name: str) -> str:
    return f"{name} ({_terms_of(name).name})"


def _terms_of(data: str) -> Licence:
    return DATA.get(data, UNPUBLISHED)


def _and(names: Sequence[str]) -> str:
    return " and ".join((*([", ".join(names[:-1])] if names[1:] else []), names[-1]))


def _verb(names: Sequence[str], verb: str) -> str:
    return verb if names[1:] else f"{verb}s"
