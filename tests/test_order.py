"""The order of samples: published permutations and shares, and nothing depends on who asks."""

import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from alumnus.data import Location, Mixture
from alumnus.data.mixture import balanced_shares
from alumnus.data.order import Stream, permutation
from alumnus.data.published import DUNE_SOURCES
from golden_files import golden_json


class Numbers:
    """A source of which only size, name and domain matter."""

    generic, classes = False, None

    def __init__(self, name: str, length: int, domain: str = "default") -> None:
        self.name, self.length, self.domain = name, length, domain

    def __len__(self) -> int:
        return self.length

    def identity(self, index: int) -> str:
        return f"{self.name}/{index}"

    def read(self, index: int) -> Any:
        raise AssertionError("an order never reads")


# Equal to the published systems


def dealt(case: dict[str, Any]) -> list[int]:
    """What a rank of the published sampler is dealt from our permutations, epoch after epoch."""
    n, total, ranks = case["length"], case["total_size"], case["num_replicas"]
    indices: list[int] = []
    epoch = 0
    while len(indices) < len(case["first_40"]):
        order = permutation(n, seed=case["seed"], epoch=epoch) if case["shuffle"] else np.arange(n)
        indices += np.resize(order, total)[case["rank"] :: ranks].tolist()
        epoch += 1
    return indices[: len(case["first_40"])]


@pytest.mark.golden
def test_permutations_are_the_published_ones() -> None:
    cases = golden_json("samplers")["infinite_distributed_sampler"]
    assert any(case["shuffle"] for case in cases)
    for case in cases:
        assert dealt(case) == case["first_40"], case


@pytest.mark.golden
def test_one_rank_of_the_published_sampler_is_our_stream() -> None:
    compared = 0
    for case in golden_json("samplers")["infinite_distributed_sampler"]:
        n, ranks = case["length"], case["num_replicas"]
        if case["shuffle"] and case["total_size"] == n:  # neither padded nor cut
            mixture = Mixture([Numbers("all", n)], seed=case["seed"])
            positions = [case["rank"] + ranks * i for i in range(len(case["first_40"]))]
            ours = [mixture.locate(p) for p in positions]
            assert [place.index for place in ours] == case["first_40"]
            assert [place.view for place in ours] == [p // n for p in positions]
            compared += 1
    if not compared:
        pytest.skip("the ranks divide no shuffled set of these fixtures")


@pytest.mark.golden
def test_balanced_batches_have_the_published_composition() -> None:
    samplers = golden_json("samplers")
    cases = [case for name, case in samplers.items() if name.startswith("teacher_balanced_batch")]
    assert cases
    for case in cases:
        _compare_composition(case, samplers["teacher_to_datasets"])


def _compare_composition(case: dict[str, Any], families: dict[str, list[str]]) -> None:
    domains = {source: family for family, sources in families.items() for source in sources}
    published = [domains[source] for source in case["dataset_names"]]
    sources = [
        Numbers(source, 50, domains[source]) for source in dict.fromkeys(case["dataset_names"])
    ]
    mixture = Mixture(sources, sampling="balanced", batch=case["final_batch"], seed=3)
    for batch in range(3):
        first = batch * case["final_batch"]
        places = [mixture.locate(first + slot) for slot in range(case["final_batch"])]
        assert [sources[place.source].domain for place in places] == published
    assert mixture.shares[0] == case["loader_batch_size"]


@pytest.mark.golden
def test_pass_over_balanced_domains_is_as_long_as_the_published_group() -> None:
    cases = golden_json("samplers")["dataset_group"]
    assert cases
    for case in cases:
        sources = [Numbers(family, n, family) for family, n in case["lengths"].items()]
        mixture = Mixture(sources, sampling="balanced", batch=len(sources), seed=1)
        assert len(mixture) == case["group_length"] * len(sources)
        assert list(mixture.domains) == case["order_of_streams"]
        for number, n in enumerate(case["lengths"].values()):
            seen = [mixture.locate(p) for p in range(len(mixture)) if p % len(sources) == number]
            whole = case["group_length"] // n  # passes that end within the group
            assert Counter(place.index for place in seen[: whole * n]) == dict.fromkeys(
                range(n), whole
            )


@pytest.mark.golden
def test_published_sources_have_their_domains_and_sizes() -> None:
    samplers = golden_json("samplers")
    assert list(DUNE_SOURCES) == samplers["all_teacher_datasets"]["train"]
    for family, names in samplers["teacher_to_datasets"].items():
        assert [n for n, source in DUNE_SOURCES.items() if source.domain == family] == names
    for name, source in DUNE_SOURCES.items():
        sizes = samplers["dataset_lengths"][name]
        assert (source.train_images, source.val_images) == (sizes["train"], sizes["val"])


# Properties


def mixtures() -> list[Mixture]:
    sources = [Numbers("a", 37, "x"), Numbers("b", 11, "y"), Numbers("c", 23, "x")]
    return [
        Mixture(sources, seed=5),
        Mixture(sources, seed=5, weights={"a": 0.3, "b": 2.5}),
        Mixture(sources, sampling="balanced", batch=6, seed=5),
        Mixture(sources, sampling="balanced", batch=7, seed=5, weights={"c": 0.5}, views=2),
        Mixture(sources, sampling="temperature", temperature=3.0, seed=5),
    ]


@pytest.mark.parametrize("number", range(5))
def test_order_does_not_depend_on_what_was_asked_before(number: int) -> None:
    straight = [mixtures()[number].locate(p) for p in range(300)]
    asked_at_random = mixtures()[number]
    for position in np.random.default_rng(0).permutation(300).tolist():
        assert asked_at_random.locate(position) == straight[position]


@pytest.mark.parametrize("number", range(5))
def test_every_image_of_a_source_comes_once_in_each_of_its_passes(number: int) -> None:
    mixture = mixtures()[number]
    mixture.views = None
    seen: dict[int, list[Location]] = {0: [], 1: [], 2: []}
    for position in range(2000):
        place = mixture.locate(position)
        seen[place.source].append(place)
    for source, places in seen.items():
        n = len(mixture.sources[source])
        for view in range(max(place.view for place in places) - 3):
            indices = sorted(place.index for place in places if place.view == view)
            assert indices == list(range(n)), (source, view)


def test_weight_makes_a_source_count_as_a_multiple_of_its_size() -> None:
    sources = [Numbers("a", 100), Numbers("b", 100)]
    mixture = Mixture(sources, weights={"a": 0.25}, seed=0)
    counts = Counter(mixture.locate(p).source for p in range(len(mixture)))
    assert counts == {0: 25, 1: 100}


@pytest.mark.parametrize(
    ("temperature", "shares"),
    [(1.0, (0.8, 0.2)), (2.0, (2 / 3, 1 / 3)), (1e9, (0.5, 0.5)), (0.5, (16 / 17, 1 / 17))],
)
def test_temperature_gives_shares_by_a_power_of_size(
    temperature: float, shares: tuple[float, float]
) -> None:
    sources = [Numbers("a", 8000), Numbers("b", 2000)]
    mixture = Mixture(sources, sampling="temperature", temperature=temperature, seed=0)
    assert len(mixture) == 10_000
    counts = Counter(mixture.locate(p).source for p in range(10_000))
    for source, share in enumerate(shares):
        assert abs(counts[source] - 10_000 * share) <= 1


def test_temperature_of_one_is_proportional_also_with_weights() -> None:
    sources, weights = [Numbers("a", 80), Numbers("b", 20)], {"a": 0.5, "b": 3.0}
    warm = Mixture(sources, sampling="temperature", temperature=1.0, weights=weights, seed=4)
    plain = Mixture(sources, weights=weights, seed=4)
    assert [warm.locate(p) for p in range(500)] == [plain.locate(p) for p in range(500)]


def test_a_temperature_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature of sampling is 0\.0, but must be above 0"):
        Mixture([Numbers("a", 3)], sampling="temperature", temperature=0.0)


def test_balanced_shares_are_the_same_in_every_batch() -> None:
    mixture = mixtures()[2]
    for first in range(0, 600, 6):
        domains = [mixture.sources[mixture.locate(first + slot).source].domain for slot in range(6)]
        assert domains == ["x"] * 3 + ["y"] * 3


def test_sources_of_a_domain_share_by_size() -> None:
    mixture = mixtures()[2]
    counts = Counter(mixture.locate(p).source for p in range(60 * 2 * 10))
    assert (counts[0], counts[2]) == (370, 230)


def test_views_repeat_after_k_passes() -> None:
    mixture = Mixture([Numbers("a", 5)], views=3, seed=1)
    assert [mixture.locate(p).view for p in range(0, 35, 5)] == [0, 1, 2, 0, 1, 2, 0]


def test_other_seed_gives_another_order() -> None:
    first, second = (Mixture([Numbers("a", 50)], seed=s) for s in (0, 1))
    assert [first.locate(p) for p in range(50)] != [second.locate(p) for p in range(50)]


def test_stream_keeps_the_orders_of_the_last_epochs_only() -> None:
    stream = Stream(5, seed=0)
    for position in range(100):
        stream(position)
    assert len(stream._kept) == 2


def test_thousand_permutations_put_each_sample_everywhere() -> None:
    n, draws = 6, 3000
    table = np.zeros((n, n))
    for epoch in range(draws):
        table[np.arange(n), permutation(n, seed=0, epoch=epoch)] += 1
    expected = draws / n
    chi2 = ((table - expected) ** 2 / expected).sum()
    assert chi2 < 25 + 5 * math.sqrt(2 * 25)  # 25 degrees of freedom, five standard deviations


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "balancd"}, "did you mean 'balanced'?"),
        ({"weights": {"thing": 2.0}}, "did you mean 'things'?"),
        ({"weights": {"things": 0.0}}, "the weight of 'things' is 0.0, but must be above 0"),
        ({"views": 0}, "views is 0, but must be at least 1"),
        ({"sampling": "balanced", "batch": 1}, "no image of domain 'people' in a batch of 1"),
    ],
)
def test_impossible_mixture_is_refused(options: dict[str, Any], message: str) -> None:
    sources = [Numbers("things", 3, "things"), Numbers("people", 3, "people")]
    with pytest.raises(ValueError, match=re.escape(message)):
        Mixture(sources, **options)


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two sources are named 'a'"):
        Mixture([Numbers("a", 3), Numbers("a", 4)])


def test_batch_that_would_starve_a_domain_is_refused() -> None:
    assert balanced_shares(7, ["a", "b", "c"]) == (3, 3, 1)
    with pytest.raises(ValueError, match="leaves no image of domain 'c' in a batch of 4"):
        balanced_shares(4, ["a", "b", "c"])
